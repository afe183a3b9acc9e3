# SPDX-License-Identifier: Apache-2.0

"""Commands that look for trouble: ``openstack ami verify``, and a base."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
import typing

from amiclient import errors
from amiclient.osc import clouds
from amiclient.osc import command
from amiclient.osc import options
from amiclient.osc import sources

if typing.TYPE_CHECKING:
    from amiclient import findings
    from amiclient.glance.verify import against


class Check(command.Lister):
    """A command whose result is a list of findings.

    Its exit status is 1 if one of them is an error; the list is printed all
    the same.
    """

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        strict = 'Return exit status 1 for warnings, too'
        options.add(parser, {'--strict': strict})
        ignore = 'Ignore the findings of this rule'
        options.add_several(parser, '--ignore <rule>', ignore)

    def result(
        self,
        parsed_args: argparse.Namespace,
        name: object,
        found: Iterable[findings.Finding],
    ) -> command.Result:
        """Make the result, and decide the exit status.

        :param name: of what was checked.
        """
        from amiclient import findings
        from amiclient.osc import columns

        shown = findings.ranked(findings.without(found, parsed_args.ignore))
        self.failed = findings.failed(shown, strict=parsed_args.strict)
        if not shown and self.app.options.verbose_level > 0:
            # An empty list leaves people wondering.
            self.app.stderr.write(f'{errors.safe(str(name))} is sound\n')
        return columns.many(columns.FINDING, shown)


class VerifyAmi(Check):
    """Find what keeps an AMI from booting, and for which projects.

    Some of the root filesystem is read in the cloud, without a download. Each
    finding has a command that fixes it, if there is one. The exit status is 1
    if one of the findings is an error. Without problems, the list is empty.
    """

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        super().add_options(parser)
        options.add(
            parser,
            {
                **options.image('Image to check'),
                '--deep': 'Download the data of all three images and check '
                'it: that it is complete, that the filesystem is clean, that '
                'the kernel and the ramdisk are valid, and all that '
                '"openstack ami check" checks',
                '--against <source>': 'Compare the AMI with any source of '
                '"openstack ami upload": the bytes, unmodified or shrunk as '
                'for an upload; with --deep, the files. The kernel and the '
                'ramdisk are compared if the source has them',
            },
        )
        clouds.add(parser, 'against-', 'Check that the same AMI is in')
        parser.add_argument(
            '--for',
            dest='target',
            choices=('nova', 'ironic'),
            help='What is to deploy the image: Nova, or Ironic to bare metal '
            '(default: Ironic if the image has the property '
            'ironic_ramdisk_deploy, otherwise Nova)',
        )
        options.add(parser, sources.TAKING | sources.PLATFORM | sources.FIX)
        options.add(parser, sources.DOWNLOAD)
        # Given without a source, its headroom would have no effect.
        options.add_shrink(parser, upload=True)
        work = options.work_directory('downloads and copies')
        options.add(parser, work | options.NETWORK | options.PROGRESS)

    def take_action(self, parsed_args: argparse.Namespace) -> command.Result:
        from amiclient import findings
        from amiclient.glance.verify import verify

        findings.refuse_unknown(parsed_args.ignore, verify.RULES)
        local, watch = self._local(parsed_args), self.watch(parsed_args)
        with clouds.opened(self, parsed_args) as elsewhere:
            request = options.fill(
                verify.VerifyRequest,
                parsed_args,
                is_deep=parsed_args.deep,
                local=local,
                elsewhere=elsewhere,
                patience=options.patience(parsed_args),
            )
            found = verify.run(request, self.proxy(), progress=watch)
        return self.result(parsed_args, parsed_args.ami, found)

    def _local(self, parsed_args: argparse.Namespace) -> against.Local | None:
        from amiclient.glance.verify import against

        choice = sources.choice(parsed_args)
        if parsed_args.against is None:
            options.refuse(
                {
                    **sources.given(parsed_args),
                    '--allow-backing-file': choice.allow_backing_file,
                    '--headroom': parsed_args.headroom is not None,
                    '--journal': parsed_args.journal != 'keep',
                    '--repair': parsed_args.repair,
                },
                'applies to the source of --against only',
                hint='add --against SOURCE; this command changes nothing in '
                'the cloud',
            )
            return None
        return against.Local(
            path=parsed_args.against,
            name=parsed_args.against,
            choice=choice,
        )
