# SPDX-License-Identifier: Apache-2.0

project = 'python-amiclient release notes'
copyright = 'python-amiclient contributors'

extensions = ['openstackdocstheme', 'reno.sphinxext']
source_suffix = {'.rst': 'restructuredtext'}
root_doc = 'index'
html_theme = 'openstackdocs'

openstackdocs_auto_name = False
