# SPDX-License-Identifier: Apache-2.0

from importlib import metadata

project = 'python-amiclient'
copyright = 'python-amiclient contributors'
release = metadata.version(project)

extensions = ['reno.sphinxext']
source_suffix = {'.rst': 'restructuredtext'}
root_doc = 'index'
html_theme = 'furo'
html_title = f'{project} {release}'
