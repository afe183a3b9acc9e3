# SPDX-License-Identifier: Apache-2.0

"""The command for the same AMI in several places: ``openstack ami copy``."""

from __future__ import annotations

import argparse

from amiclient import errors
from amiclient.osc import clouds
from amiclient.osc import command
from amiclient.osc import options


class CopyAmi(command.Lister):
    """Copy an AMI with its kernel and ramdisk to other regions or clouds.

    Each target gets all three images, verified and linked, or nothing. If one
    target fails, the others are completed, and the exit status is 1. A kernel,
    ramdisk or AMI that the target already has is not copied again. Between
    regions, the cloud transfers the data by itself if it offers the import
    method glance-download. Otherwise, the data passes through this host, but
    is not stored here; -v shows why. --store is a store of each target: what
    is there already is copied to it, for which usually only administrators
    have permission, or else copied again. With --dry-run, the status is
    "planned". Tables leave out the way, and the IDs of the kernel and the
    ramdisk, unless they are asked for with -c.
    """

    spare = frozenset({'Kernel ID', 'Ramdisk ID', 'Way'})
    spare_if_unset = frozenset({'Reused'})

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        options.add(parser, options.image('Image to copy'))
        clouds.add(parser, 'to-', 'Copy the AMI to')
        options.add_visibility(parser, default='shared')
        options.add_protected(parser, default=' (default)')
        options.add_stores(parser, 'Store of the target for the copied data')
        same_id = (
            'Give the copies the IDs of the original images, which must not '
            'be in use there (default: random)'
        )
        options.add(parser, {'--same-id': same_id} | options.KEEP_HARDWARE)
        command.add_human_readable(parser)
        options.add(parser, options.DRY_RUN | options.PROGRESS)
        options.add(parser, options.NETWORK)

    def take_action(self, parsed_args: argparse.Namespace) -> command.Result:
        from amiclient.glance.change import copy
        from amiclient.glance.change import copy_plan
        from amiclient.glance import places
        from amiclient.glance.upload import request
        from amiclient.osc import columns

        if not parsed_args.regions and not parsed_args.clouds:
            raise errors.UsageError(
                'there is nowhere to copy to',
                hint='give --to-region REGION or --to-cloud CLOUD',
            )
        options.refuse_failure(parsed_args)
        asked = options.fill(
            copy_plan.CopyRequest,
            parsed_args,
            settings=options.fill(
                request.Settings,
                parsed_args,
                patience=options.patience(parsed_args),
            ),
        )
        source, watch = places.CloudPlace('', '', self.proxy()), self.watch
        lost: list[str] = []
        with clouds.opened(
            self, parsed_args, source=source, lost=lost
        ) as targets:
            copied = copy.copy(
                asked, source, targets, lost, progress=watch(parsed_args)
            )
        self.failed = copy.failed(copied)
        return columns.copied(copied, dry_run=parsed_args.dry_run)
