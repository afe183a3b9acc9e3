# SPDX-License-Identifier: Apache-2.0

"""What all commands have in common.

A command ends in one of three ways: its result on stdout and exit status 0;
one line on stderr and status 1; or, when it was interrupted, one line and the
status that a shell gives for the signal, once all has been cleaned up.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator, Sequence
import contextlib
import os
import traceback
import typing

from openstack import utils as sdk_utils
from osc_lib.command import command

from amiclient.errors import AmiError
from amiclient.osc import options
from amiclient import text

if typing.TYPE_CHECKING:
    from openstack.image.v2 import _proxy

    from amiclient.glance.client import Catalog
    from amiclient import interrupts
    from amiclient import progress


#: What to do where a limit keeps Python from working.
_MORE_MEMORY = 'raise the limit: ulimit -v unlimited'


@contextlib.contextmanager
def plain_errors() -> Iterator[None]:
    """Turn errors of the system and of the SDK into ones for people.

    :raises CloudError: for what the session or the SDK raised.
    :raises AmiError: for what the operating system refused.
    """
    # Not at the top: see amiclient.osc.
    from amiclient.glance import http_errors

    try:
        with http_errors.translated('talking to the cloud'):
            yield
    except BrokenPipeError:
        # cliff knows what to do when nobody reads stdout any more.
        raise
    except MemoryError as error:
        raise AmiError(
            'there is not enough memory', hint=_MORE_MEMORY
        ) from error
    except RuntimeError as error:
        if isinstance(error.__cause__, KeyboardInterrupt):
            # What Python makes of a signal while it makes a class.
            raise error.__cause__ from None
        # _thread.error; Python has no class of its own for it.
        if 'start new thread' not in str(error):
            raise
        raise AmiError(
            'no thread can be started', hint=f'{_MORE_MEMORY}; ulimit -u'
        ) from error
    except OSError as error:
        what = error.strerror or ' '.join(str(error).split())
        # Of an open file, there may be the number only, which says nothing.
        if isinstance(error.filename, str | bytes | os.PathLike):
            what = f'{os.fsdecode(error.filename)}: {what}'
        raise AmiError(what) from error
    except AmiError:
        raise
    except Exception as error:
        place = _place(error)
        if place is None:
            raise
        raise AmiError(
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


class _Base(command.Command):
    """Errors, signals, the way to Glance, and who watches the progress."""

    #: Whether it needs a cloud; local commands say no.
    auth_required: bool = True

    def __init__(self, *args: typing.Any, **kwargs: typing.Any) -> None:
        super().__init__(*args, **kwargs)
        if self.app is not None:
            self._begin()
        # The shell would log in before run(), where it would wait for ever
        # for a Keystone that hangs, and explain a failure at length.
        self._logs_in = self.auth_required
        self.auth_required = False

    def _begin(self) -> None:
        # Not at the top: see amiclient.osc.
        from amiclient import interrupts
        from amiclient.osc import standard

        # At the prompt of `openstack`, the next command has to come.
        if not getattr(self.app, 'interactive_mode', True):
            interrupts.end_at_once()
        standard.fill(self.app)

    def run(self, parsed_args: argparse.Namespace) -> int:
        """Run the command.

        :returns: the exit status.
        """

        def run() -> int:
            with self._logged_in(parsed_args):
                return super(_Base, self).run(parsed_args)

        return self._guarded(run)

    @contextlib.contextmanager
    def _logged_in(self, parsed_args: argparse.Namespace) -> Iterator[None]:
        """Log in to the cloud, if the command needs one.

        :raises CloudError: if that fails.
        """
        if not self._logs_in:
            yield
            return
        # Not at the top: see amiclient.osc.
        from amiclient.glance import http_errors
        from amiclient.osc import login

        self.auth_required = True
        given = getattr(parsed_args, 'timeout', None)
        with login.limited(self.app, given):
            with login.quiet(), http_errors.understood('logging in'):
                self.app.prepare_to_run_command(self)
            yield

    def _guarded(self, run: Callable[[], int]) -> int:
        # Not at the top: see amiclient.osc.
        from amiclient import files
        from amiclient import interrupts
        from amiclient.osc import output

        try:
            with (
                files.usable(),
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
        words = ['interrupted', *getattr(error, '__notes__', ())]
        self.app.LOG.error('; '.join(words))
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
        # Not at the top: see amiclient.osc.
        from amiclient.osc import login

        image = login.image_service(self.app.client_manager.sdk_connection)
        narrow = getattr(sdk_utils, 'ensure_service_version', None)
        if narrow is None:
            # openstacksdk has it since 4.5.
            return image
        return typing.cast('_proxy.Proxy', narrow(image, '2'))

    def catalog(self, parsed_args: argparse.Namespace) -> Catalog:
        """Get Glance's images, as patiently as the user's options say.

        :raises CloudError: if there is no image service of version 2.
        """
        # Not at the top: see amiclient.osc.
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
        # Not at the top: see amiclient.osc.
        from amiclient.glance.change import share

        found = self.find_project(
            parsed_args.project, parsed_args.project_domain
        )
        for warning in share.unlikely([found]):
            self.log.warning('%s', warning)
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

    def watch(self, parsed_args: argparse.Namespace) -> progress.Progress:
        """Choose who watches the progress of long work.

        :returns: bars on a terminal; nobody with ``-q``, ``--no-progress``
            or where stderr is no terminal.
        """
        # Not at the top: see amiclient.osc.
        from amiclient.osc import progress as bars

        return bars.watcher(
            self.app.stderr,
            wanted=not parsed_args.no_progress
            and self.app.options.verbose_level > 0,
        )


class Action(_Base):
    """A command that says nothing if all went well."""

    def say(self, lines: Iterable[str]) -> None:
        """Print lines, as the result."""
        # Not at the top: see amiclient.osc.
        from amiclient.osc import standard

        with standard.printing(self.app.stdout):
            for line in lines:
                self.app.stdout.write(f'{text.safe(line)}\n')

    def warn(self, lines: Iterable[str]) -> None:
        """Tell the user something that is not the result."""
        for line in lines:
            self.log.warning('%s', line)


class ShowOne(_Base, command.ShowOne):
    """A command whose result is one record."""

    def produce_output(
        self,
        parsed_args: argparse.Namespace,
        column_names: Sequence[str],
        data: Sequence[typing.Any],
    ) -> int:
        """Print the record."""
        # Not at the top: see amiclient.osc.
        from amiclient.osc import output
        from amiclient.osc import standard

        if output.must_be_safe(parsed_args.formatter, self.app.stdout):
            data = output.safe_row(data)
        with standard.printing(self.app.stdout):
            return int(super().produce_output(parsed_args, column_names, data))


class Lister(_Base, command.Lister):
    """A command whose result is a list of records."""

    def produce_output(
        self,
        parsed_args: argparse.Namespace,
        column_names: Sequence[str],
        data: Iterable[Sequence[typing.Any]],
    ) -> int:
        """Print the records."""
        # Not at the top: see amiclient.osc.
        from amiclient.osc import output
        from amiclient.osc import standard

        # Errors of what makes them are not ones of printing.
        data = list(data)
        if output.must_be_safe(parsed_args.formatter, self.app.stdout):
            data = list(output.safe_rows(data))
        with standard.printing(self.app.stdout):
            return int(super().produce_output(parsed_args, column_names, data))
