# SPDX-License-Identifier: Apache-2.0

from importlib import metadata

from docutils import nodes

project = 'python-amiclient'
copyright = 'python-amiclient contributors'
release = metadata.version(project)

extensions = ['reno.sphinxext']
source_suffix = {'.rst': 'restructuredtext'}
root_doc = 'index'
html_theme = 'furo'
html_title = f'{project} {release}'


def _name_version(_app, doctree):
    # Before the first tag of all, reno knows no better.
    for title in doctree.findall(nodes.title):
        if title.astext() == '0.0.0':
            title[0] = nodes.Text(release)


def setup(app):
    app.connect('doctree-read', _name_version)
