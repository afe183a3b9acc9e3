# SPDX-License-Identifier: Apache-2.0

"""Directives of these pages: one for a command, their list, and faults."""

from collections.abc import Iterator
import functools
import importlib.metadata
import json
import pathlib
import re
from typing import Any

from cliff import command
from cliff import lister
from cliff import show
from cliff import sphinxext
from docutils import nodes
from docutils.parsers.rst.directives import tables
from docutils import statemachine
from sphinx import addnodes
from sphinx.util import docutils

_GROUP = 'openstack.ami.v1'


def commands() -> dict[str, str]:
    """Tell the commands, each with the first sentence of its help."""
    found = {}
    for point in importlib.metadata.entry_points(group=_GROUP):
        text = point.load()(None, None).get_description()
        text = ' '.join(text.split())
        sentence, *_ = re.split(r'\.(?: |$)', text)
        found[point.name.replace('_', ' ')] = sentence
    return dict(sorted(found.items()))


def output_options() -> list[str]:
    """Tell the options that cliff gives commands: one page has them all."""
    return sorted(
        {
            name
            for class_ in (lister.Lister, show.ShowOne, command.Command)
            for action in type(
                class_.__name__, (class_,), {'take_action': None}
            )(None, None)
            .get_parser('')
            ._actions
            for name in action.option_strings
        }
    )


def man_pages() -> list[tuple[str, str, str, list[str], int]]:
    """Tell the manual pages: one of all commands, and one of each."""
    named = [
        (f'cli/{name.replace(" ", "-")}', f'openstack {name}', sentence)
        for name, sentence in commands().items()
    ]
    summary = 'machine images in three parts (AMI, AKI, ARI)'
    return [
        (page, name.replace(' ', '-'), text, [], 1)
        for page, name, text in [
            ('cli/index', 'openstack ami', summary),
            *named,
        ]
    ]


@functools.cache
def schema() -> dict[str, Any]:
    """Read the schema of what commands print."""
    path = pathlib.Path(__file__).parents[1] / 'cli/output.json'
    return json.loads(path.read_text())['$defs']


def keys(name: str) -> Iterator[str]:
    """Describe the keys of a record, or of those in a list, as RST."""
    part = schema()[name]
    many = part.get('type') == 'array'
    part = part.get('items', part)
    while '$ref' in part:
        name = part['$ref'].rpartition('/')[2]
        part = schema()[name]
        many = many or part.get('type') == 'array'
        part = part.get('items', part)
    yield 'A list of objects:' if many else 'An object:'
    yield ''
    optional = {*part['properties']}.difference(part['required'])
    for key, value in part['properties'].items():
        text = value.get('description', '')
        if 'enum' in value:
            text += f' ({", ".join(value["enum"])})'
        within = re.search(r'#/\$defs/([\w ]+)', json.dumps(value))
        if within:
            text += f' (see :ref:`{within[1]} <json {within[1]}>`)'
        yield f'``{key}``{" (optional)" if key in optional else ""}'
        yield f'    {text}'
    for pattern, value in part.get('patternProperties', {}).items():
        yield f'``{pattern}...``'
        yield f'    {value["description"]}'
    yield ''


class Command(sphinxext.AutoprogramCliffDirective):
    """The command that the page is named after, in the order of man(7)."""

    required_arguments = 0

    def run(self) -> list[nodes.Node]:
        name = self.state.document.settings.env.docname.rpartition('/')[2]
        self.arguments = [_GROUP]
        self.options['command'] = name.replace('-', ' ')
        [whole] = super().run()
        parts: dict[str, list[nodes.Node]] = {
            'Synopsis': [],
            'Description': [],
            'Options': [],
        }
        for node in whole.children[1:]:
            if isinstance(node, nodes.literal_block):
                part = 'Synopsis'
            elif isinstance(node, (addnodes.desc, addnodes.index)):
                part = 'Options'
            elif 'is provided by the' in node.astext():
                # Which package that is, these pages say themselves.
                continue
            else:
                part = 'Description'
            parts[part].append(node)
        name = self.options['command']
        if name in schema():
            described = nodes.container()
            lines = statemachine.StringList(list(keys(name)))
            self.state.nested_parse(lines, 0, described)
            parts['JSON'] = described.children
        usage = _section('Synopsis', parts.pop('Synopsis'))
        sections = [_section(title, found) for title, found in parts.items()]
        # The order of man(7); but on a phone, the options fill the first page.
        return [
            addnodes.only('', usage, expr='man'),
            *(section for section in sections if len(section) > 1),
            addnodes.only('', usage.deepcopy(), expr='html'),
        ]


def _section(title: str, content: list[nodes.Node]) -> nodes.section:
    name = title.lower()
    return nodes.section(
        '', nodes.title(text=title), *content, ids=[name], names=[name]
    )


class Commands(docutils.SphinxDirective):
    """The commands that are named, one a line, and what each does."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        known = commands()
        lines = []
        for name in self.content:
            page = name.replace(' ', '-')
            lines += [f':doc:`{name} <{page}>`', f'    {known[name]}.', '']
        return self.parse_text_to_nodes('\n'.join(lines))


class Keys(docutils.SphinxDirective):
    """The keys of records that are within others."""

    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        return self.parse_text_to_nodes('\n'.join(keys(self.arguments[0])))


class FaultTable(tables.ListTable):
    """A list-table without its last column: tests, which no reader needs."""

    def run(self) -> list[nodes.Node]:
        [table] = super().run()
        [group] = table.findall(nodes.tgroup)
        group['cols'] -= 1
        columns = list(group.findall(nodes.colspec))
        group.remove(columns[-1])
        for row in group.findall(nodes.row):
            row.pop()
        return [table]


def setup(app: Any) -> dict[str, Any]:
    """Tell Sphinx."""
    app.add_directive('command', Command)
    app.add_directive('commands', Commands)
    app.add_directive('fault-table', FaultTable)
    app.add_directive('keys', Keys)
    return {'parallel_read_safe': True, 'parallel_write_safe': True}
