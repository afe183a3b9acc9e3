# SPDX-License-Identifier: Apache-2.0

"""What all commands have in common.

A command ends in one of three ways: its result on stdout and exit status 0;
one line on stderr and status 1; or, when it was interrupted, one line and the
status that a shell gives for the signal, once all has been cleaned up.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
import contextlib
import logging
import os
import traceback
import typing

from openstack import exceptions as sdk_exceptions
from osc_lib.command import command

from amiclient import errors
from amiclient.osc import options
from amiclient.osc import sources

if typing.TYPE_CHECKING:
    from openstack import connection
    from openstack.image.v2 import _proxy

    from amiclient.glance.client import Catalog
    from amiclient import interrupts
    from amiclient import progress


#: What to do where a limit keeps Python from working.
_MORE_MEMORY = 'raise the limit: ulimit -v unlimited'


@contextlib.contextmanager
def plain_errors() -> Iterator[None]:
    """Turn errors of the system and of the SDK into ones for people."""
    from amiclient.glance import http_errors

    try:
        with http_errors.translated('talking to the cloud'):
            yield
    except BrokenPipeError:
        # cliff knows what to do when nobody reads stdout any more.
        raise
    except MemoryError as error:
        raise errors.AmiError(
            'there is not enough memory', hint=_MORE_MEMORY
        ) from error
    except RuntimeError as error:
        if isinstance(error.__cause__, KeyboardInterrupt):
            # What Python makes of a signal while it makes a class.
            raise error.__cause__ from None
        # _thread.error; Python has no class of its own for it.
        if 'start new thread' not in str(error):
            raise
        raise errors.AmiError(
            'no thread can be started', hint=f'{_MORE_MEMORY}; ulimit -u'
        ) from error
    except OSError as error:
        what = error.strerror or ' '.join(str(error).split())
        # Of an open file, there may be the number only, which says nothing.
        if isinstance(error.filename, str | bytes | os.PathLike):
            what = f'{os.fsdecode(error.filename)}: {what}'
        raise errors.AmiError(what) from error
    except errors.AmiError:
        raise
    except Exception as error:
        place = _place(error)
        if place is None:
            raise
        raise errors.AmiError(
            f'an unexpected error in {place}',
            hint='this is a bug: please report what the same command prints '
            'with --debug',
        ) from error


#: Their errors are for users, and say what is wrong with an option, say.
_SHELL = ('argparse', 'cliff', 'openstackclient', 'osc_lib')


def _place(error: BaseException) -> str | None:
    """Find the line of this package that an error comes from.

    :returns: None if the shell or its libraries raised it.
    """
    place = None
    for frame, line in traceback.walk_tb(error.__traceback__):
        package, _, module = str(frame.f_globals['__name__']).partition('.')
        if package == __package__.partition('.')[0]:
            place = f'{module}, line {line}'
        elif package in _SHELL:
            place = None
    own = type(error).__module__.partition('.')[0] in _SHELL
    return None if own else place


# The first contact with a cloud: Keystone first, and then the image service,
# whose versions openstacksdk asks for. Both libraries log or swallow what the
# user should know.

#: Seconds that logging in may take at least: Keystone has to compute.
_SHORTEST = 5.0

#: These warn of what fails a moment later, and is told then.
_LOGGERS = (
    'keystoneauth.discover',
    'keystoneauth.identity.base',
    'keystoneauth.identity.generic.base',
)


def _matters(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Drop what keystoneauth warns of; ``--debug`` shows the cause."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    # Another level would make all loggers forget what they have found out.
    before = [list(logger.filters) for logger in loggers]
    try:
        for logger in loggers:
            logger.addFilter(_matters)
        yield
    finally:
        for logger, filters in zip(loggers, before, strict=True):
            logger.filters[:] = filters


@contextlib.contextmanager
def _limited(app: typing.Any, seconds: float | None) -> Iterator[None]:
    """Have no request wait for ever, not even those of the libraries.

    What clouds.yaml says (``api_timeout``) goes before our default.

    :param app: the shell, whose session is made in the block at the latest.
    :param seconds: what the user wants; None for no wish.
    """
    from amiclient.glance import retry
    from amiclient.glance import sessions

    configured = app.cloud.config.get('api_timeout')
    wanted = max(float(seconds or configured or retry.TIMEOUT), _SHORTEST)
    # Where openstacksdk looks when it makes the session.
    app.options.api_timeout = str(wanted)
    app.cloud_config._session_constructor = sessions.create
    manager = app.client_manager
    # In an interactive shell, a command before may have made one.
    _set_timeout(manager, wanted)
    try:
        yield
    finally:
        del app.options.api_timeout
        _set_timeout(manager, configured and float(configured))


def _set_timeout(manager: typing.Any, seconds: float | None) -> None:
    from amiclient.glance import sessions

    connection = getattr(manager, 'sdk_connection', None)
    for session in (
        getattr(manager, 'session', None),
        getattr(connection, 'session', None),
    ):
        if session is not None:
            sessions.bound(session).timeout = seconds


_NO_PROJECT = (
    'images belong to projects: give one with --os-project-name (in '
    'clouds.yaml: project_name), and leave out any system scope'
)


def image_service(sdk: connection.Connection) -> _proxy.Proxy:
    """Find the image service, and say where and why if there is none.

    :raises CloudError: if there is no image service of version 2.
    """
    from openstack.image.v2 import _proxy

    from amiclient.glance import http_errors

    asked = str(sdk.config.get_api_version('image') or '2')
    if asked.split('.')[0] != '2':
        raise errors.UsageError(
            f'version {asked} of the image service was asked for, but only '
            'version 2 has what is needed',
            hint='remove image_api_version from clouds.yaml, '
            'OS_IMAGE_API_VERSION or --os-image-api-version',
        )
    with http_errors.understood('asking for the image service'):
        try:
            with _quiet():
                found = sdk.image
        except (
            sdk_exceptions.NotSupported,
            sdk_exceptions.ServiceDiscoveryException,
        ) as error:
            # The SDK keeps to itself where it looked, and what happened.
            where = sdk.config.get_endpoint('image')
            where = where or sdk.endpoint_for('image')
            _probe(sdk, where)
            raise errors.CloudError(
                f'no image service answers at {where}',
                hint='check the endpoint, and that the service is up',
            ) from error
    # openstacksdk can tell a version from another since 4.5.
    if not isinstance(found, _proxy.Proxy):
        if sdk.endpoint_for('image') is None:
            raise errors.CloudError(
                'this login has no image service, as it is with one that is '
                'for no project',
                hint=_NO_PROJECT,
            )
        raise sdk_exceptions.SDKException(
            'version 2 of the image service is needed'
        )
    return found


def _probe(sdk: connection.Connection, where: str | None) -> None:
    """Ask for what the SDK asked for, and raise what is wrong with it."""
    from amiclient.glance import http_errors

    if where is None:
        raise errors.CloudError(
            'this cloud has no image service',
            hint='check the region, and the catalog: openstack catalog list',
        )
    doing = f'asking for the image service at {where}'
    with http_errors.translated(doing):
        answer = sdk.session.get(where, authenticated=False, raise_exc=False)
    # 300 is how a service with several versions lists them.
    if answer.status_code >= 400:
        raise http_errors.from_response(answer, doing)


#: What take_action() returns: headers, and the values of a row or of rows.
Result = tuple[tuple[str, ...], typing.Any]


class _Base(command.Command):
    """Errors, signals, the way to Glance, and who watches the progress."""

    #: Whether it needs a cloud; local commands say no.
    auth_required: bool = True

    #: Set if the result is to be printed, but makes the exit status 1.
    failed = False

    #: What to call what was downloaded, by the path that it has here.
    _names: Mapping[str, str] = {}

    def __init__(self, *args: typing.Any, **kwargs: typing.Any) -> None:
        super().__init__(*args, **kwargs)
        if self.app is not None:
            self._begin()
        # The shell would log in before run(), where it would wait for ever
        # for a Keystone that hangs, and explain a failure at length.
        self._logs_in = self.auth_required
        self.auth_required = False

    def _begin(self) -> None:
        from amiclient import interrupts

        # At the prompt of `openstack`, the next command has to come.
        if not getattr(self.app, 'interactive_mode', True):
            interrupts.end_at_once()
        from amiclient.osc import output

        output.fill(self.app)

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        self.add_options(parser)
        return parser

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        """Add the command's own options to those that cliff gives it."""

    def run(self, parsed_args: argparse.Namespace) -> int:
        def run() -> int:
            with self._logged_in(parsed_args), self._downloaded(parsed_args):
                status = super(_Base, self).run(parsed_args)
            return status or int(self.failed)

        return self._guarded(run)

    def refuse(self, parsed_args: argparse.Namespace) -> None:
        """Refuse what a look at the options can tell, before a download."""

    @contextlib.contextmanager
    def _downloaded(self, parsed_args: argparse.Namespace) -> Iterator[None]:
        """Have files here for the URLs that are given in place of them."""
        self.refuse(parsed_args)
        watch = self.watch(parsed_args)
        with sources.downloaded(parsed_args, watch) as self._names:
            yield

    @contextlib.contextmanager
    def _logged_in(self, parsed_args: argparse.Namespace) -> Iterator[None]:
        if not self._logs_in:
            yield
            return
        from amiclient.glance import http_errors

        self.auth_required = True
        given = getattr(parsed_args, 'timeout', None)
        with _limited(self.app, given):
            with (
                _quiet(),
                http_errors.understood('logging in'),
                # It may be what takes longest, before all else.
                self.watch(parsed_args).task('Authenticating'),
            ):
                self.app.prepare_to_run_command(self)
            try:
                yield
            except errors.CloudError as error:
                if error.hint == http_errors.NO_ROLE and self._has_no_project:
                    error.hint = _NO_PROJECT
                raise

    @property
    def _has_no_project(self) -> bool:
        access = self.app.client_manager.auth_ref
        return access is not None and access.project_id is None

    def _guarded(self, run: Callable[[], int]) -> int:
        from amiclient import atomic
        from amiclient import interrupts
        from amiclient import jobs
        from amiclient.osc import output

        jobs.save_address_space()
        try:
            with (
                atomic.usable(),
                interrupts.raised(again=self._say_wait),
                output.safe_logs(),
                output.safe_errors(),
                plain_errors(),
            ):
                return run()
        except interrupts.Interrupted as error:
            self._say_interrupted(error)
            return error.status

    def _say_interrupted(self, error: interrupts.Interrupted) -> None:
        notes = getattr(error, '__notes__', ())
        # Python 3.12 and later note where a class was being made.
        words = [n for n in notes if not n.startswith('Error calling __')]
        self.app.LOG.error('; '.join(['interrupted', *words]))
        self.log.debug('interrupted here', exc_info=error)

    def _say_wait(self) -> None:
        # Straight to stderr: this is called by a signal handler, and a logger
        # may hold its lock just now. So may the stream, which then says so.
        with contextlib.suppress(RuntimeError):
            self.app.stderr.write('cleaning up, please wait\n')

    def proxy(self) -> _proxy.Proxy:
        """Get the way to Glance that the user's options lead to.

        ``client_manager.image`` would answer for the first cloud only, where
        one process talks to two.

        :raises CloudError: if there is no image service of version 2.
        """
        return image_service(self.app.client_manager.sdk_connection)

    def catalog(self, parsed_args: argparse.Namespace) -> Catalog:
        """Get Glance's images, as patiently as the user's options say."""
        from amiclient.glance import client

        patience = options.patience(parsed_args)
        return client.Catalog(self.proxy(), patience=patience)

    def project_id(self, parsed_args: argparse.Namespace) -> str | None:
        """Look up the project that ``--project`` names.

        :returns: its id; None if the option was not given.
        :raises UsageError: if only its domain is named.
        :raises CloudError: if there is no such project.
        """
        if parsed_args.project is None:
            options.refuse(
                {'--project-domain': parsed_args.project_domain is not None},
                'there is no project to look up in it',
                hint='give --project, too',
            )
            return None
        from amiclient.glance.change import share

        found = self.find_project(
            parsed_args.project, parsed_args.project_domain
        )
        self.warn(share.unlikely([found]))
        return found

    def find_project(self, name_or_id: str, domain: str | None = None) -> str:
        """Look up a project.

        :param domain: that it is in; its name or id.
        :returns: its id; what was given, if Keystone does not let the user
            look up projects.
        :raises UsageError: if a name is empty.
        :raises CloudError: if there is no such project, or domain.
        """
        options.refuse(
            {'the project': not name_or_id, '--project-domain': domain == ''},
            'it must not be empty',
            hint='give a name or an id',
        )
        # Loads the identity service's records, which few commands need.
        from amiclient.glance import http_errors
        from amiclient.glance import retry
        from amiclient.glance import sessions
        from osc_lib.cli import identity

        doing = f'looking up the project {name_or_id!r}'
        sdk = self.app.client_manager.sdk_connection
        # There is no knowing how many pages the cloud has the SDK go through.
        seconds = 2 * (sdk.session.timeout or retry.TIMEOUT)
        with http_errors.understood(doing), sessions.within(seconds):
            found = identity.find_project(sdk, name_or_id, domain).id
            # Who may not look up names knows that of his own project.
            own = sdk.current_project
            if found == name_or_id == own.name and domain is None:
                found = own.id
        if not isinstance(found, str) or not found:
            raise http_errors.senseless(doing)
        return found

    def users(self, project: str) -> list[str]:
        """Name the users of a project by their IDs.

        :returns: none if Keystone does not let the user list them.
        """
        from openstack.identity.v3 import _proxy

        from amiclient.glance import http_errors
        from amiclient.glance import retry
        from amiclient.glance import sessions

        sdk = self.app.client_manager.sdk_connection
        seconds = 2 * (sdk.session.timeout or retry.TIMEOUT)
        doing = f'listing the users of the project {project}'
        try:
            with http_errors.understood(doing), sessions.within(seconds):
                identity = typing.cast(_proxy.Proxy, sdk.identity)
                found = identity.role_assignments(
                    scope_project_id=project, effective=True
                )
                return sorted({each.user['id'] for each in found})
        except errors.CloudError as error:
            self.log.debug('%s', error)
            return []

    def watch(self, parsed_args: argparse.Namespace) -> progress.Progress:
        """Choose who watches, as the options and the environment say."""
        from amiclient.osc import watchers

        # A command that takes no time has no such options.
        refused = getattr(parsed_args, 'no_progress', True)
        return watchers.choose(
            self.app.stderr,
            'none' if refused else parsed_args.progress,
            quiet=self.app.options.verbose_level < 1,
        )

    def warn(self, lines: Iterable[str]) -> None:
        """Tell the user something that is not the result."""
        for line in lines:
            for path, name in self._names.items():
                line = line.replace(path, name)
            self.log.warning('%s', line)


class Action(_Base):
    """A command that says nothing if all went well."""

    def say(self, lines: Iterable[str]) -> None:
        """Print lines, as the result."""
        from amiclient.osc import output

        with output.printing(self.app.stdout):
            for line in lines:
                self.app.stdout.write(f'{errors.safe(line)}\n')


def add_human_readable(parser: options.Container) -> None:
    """Add ``--human-readable`` and its opposite."""
    human = (
        'Print sizes in tables with units, for example 664.1 MiB (default: '
        '$AMICLIENT_HUMAN_READABLE, 1 or 0, or else if stdout is a terminal)'
    )
    raw = 'Print sizes in bytes, as in all other formats'
    options.add_pair(
        parser,
        {'--human-readable': human},
        {'--no-human-readable': raw},
        'human_readable',
    )


class _Printing(_Base):
    """Makes tables for people, and leaves the rest to scripts as it is.

    :cvar spare: rows or columns that tables leave out unless they are asked
        for: what others say, and what is long.
    :cvar spare_if_unset: those that they leave out if they are empty.
    """

    spare: typing.ClassVar[frozenset[str]] = frozenset()
    spare_if_unset: typing.ClassVar[frozenset[str]] = frozenset()

    #: The column that a list leaves out if it does not fit the terminal.
    spare_column: typing.ClassVar[str | None] = None

    formatter: typing.Any

    def produce_output(
        self,
        parsed_args: argparse.Namespace,
        column_names: Sequence[str],
        data: Iterable[typing.Any],
    ) -> int:
        from amiclient.osc import output
        from amiclient.osc import tables

        stdout, formatter = self.app.stdout, parsed_args.formatter
        # Errors of what makes them are not ones of printing.
        data = [self._names.get(str(value), value) for value in data]
        if output.must_be_safe(formatter, stdout):
            data = [output.safe(value) for value in data]
        human = tables.is_human(parsed_args, stdout)
        data = list(map(tables.cell(parsed_args, human=human), data))
        brief = tables.is_brief(parsed_args)
        if brief:
            column_names, data = self.shorten(column_names, data)
        if tables.must_fit(parsed_args, stdout):
            spare = self.spare_column if brief else None
            self.formatter = tables.Fitting(self.formatter, spare)
        cliffs: typing.Any = super()
        with output.printing(stdout):
            return int(cliffs.produce_output(parsed_args, column_names, data))

    def shorten(
        self, names: Sequence[str], data: list[typing.Any]
    ) -> tuple[Sequence[str], list[typing.Any]]:
        """Leave out what somebody does not need who did not ask for all."""

        def is_kept(number: int, name: str) -> bool:
            return name not in self.spare and (
                name not in self.spare_if_unset
                or any(getattr(r[number], '_value', r[number]) for r in data)
            )

        kept = [n for n, name in enumerate(names) if is_kept(n, name)]
        return [names[n] for n in kept], [[r[n] for n in kept] for r in data]


class ShowOne(_Printing, command.ShowOne):
    """A command whose result is one record."""

    def shorten(
        self, names: Sequence[str], data: list[typing.Any]
    ) -> tuple[Sequence[str], list[typing.Any]]:
        names, (row,) = super().shorten(names, [data])
        return names, row


class Lister(_Printing, command.Lister):
    """A command whose result is a list of records."""

    def produce_output(
        self,
        parsed_args: argparse.Namespace,
        column_names: Sequence[str],
        data: Iterable[typing.Any],
    ) -> int:
        from amiclient.osc import tables

        if parsed_args.formatter == 'table':
            heads = {name: tables.heading(name) for name in column_names}
            for asked in ('columns', 'sort_columns'):
                given = getattr(parsed_args, asked)
                setattr(parsed_args, asked, [heads.get(n, n) for n in given])
            column_names = [*heads.values()]
        return super().produce_output(parsed_args, column_names, data)
