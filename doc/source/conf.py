# SPDX-License-Identifier: Apache-2.0

import configparser
from importlib import metadata
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).with_name('_extensions')))

import directives

_setup = configparser.ConfigParser()
_setup.read(pathlib.Path(__file__).parents[2] / 'setup.cfg')
_urls = dict(
    line.split(' = ')
    for line in _setup['metadata']['project_urls'].strip().split('\n')
)

project = 'python-amiclient'
copyright = 'python-amiclient contributors'
release = metadata.version(project)

extensions = ['cliff.sphinxext', 'directives', 'pictures']
source_suffix = {'.rst': 'restructuredtext'}
root_doc = 'index'
# Not OpenStack's own theme: that has its logo, and a bar to log in, which only
# official projects may show.
html_theme = 'furo'
html_title = f'{project} {release}'
# At the end of each page; setup.cfg is the one place where addresses are.
html_theme_options = {
    'footer_icons': [
        {
            'name': 'Issue tracker',
            'url': _urls['Bug Tracker'],
            'html': 'Report a bug',
            'class': '',
        }
    ]
}
templates_path = []
exclude_patterns = []
# Two dashes are an option, and quotes are what a shell reads.
smartquotes = False

# Every command of the plugin is one of these: `ami shrink`, say.
autoprogram_cliff_application = 'openstack'
autoprogram_cliff_ignored = directives.output_options()

man_pages = directives.man_pages()
