# SPDX-License-Identifier: Apache-2.0

project = 'python-amiclient'
copyright = 'python-amiclient contributors'

extensions = ['cliff.sphinxext', 'openstackdocstheme']
source_suffix = {'.rst': 'restructuredtext'}
root_doc = 'index'
html_theme = 'openstackdocs'
pygments_style = 'native'
templates_path = []
exclude_patterns = []

openstackdocs_auto_name = False
# There is no bug tracker whose link could be made up.
html_theme_options = {'display_global_toc_section': True}

# Every command of the plugin is one of these: `ami shrink`, say.
autoprogram_cliff_application = 'openstack'
