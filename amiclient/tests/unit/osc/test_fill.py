# SPDX-License-Identifier: Apache-2.0

"""Requests get the options that are named like their fields."""

import dataclasses

from amiclient.boot import run
from amiclient.glance.change import copy_plan
from amiclient.glance.change import update
from amiclient.glance.transfer import save
from amiclient.glance.upload import request
from amiclient.glance.verify.verify import VerifyRequest
from amiclient.osc import ami
from amiclient.osc import ami_change
from amiclient.osc import boot
from amiclient.osc import copy
from amiclient.osc import local
from amiclient.osc import options
from amiclient.osc import verify
from amiclient.rootfs import check
from amiclient.source import build
from amiclient.source import resolve
from amiclient.source import shrink
from amiclient.tests import base
from amiclient import units

#: Commands, what they make, and its fields that no option is named like:
#: commands give them, or they are for others than commands.
_FILLED = (
    (ami.SaveAmi, save.SaveRequest, {'patience'}),
    (
        ami.UploadAmi,
        request.UploadRequest,
        {'kernel_traits', 'options', 'own', 'probe', 'ramdisk_traits', 'seen'}
        | {'origin', 'replaced', 'settings', 'traits'},
    ),
    (
        ami.UploadAmi,
        request.Settings,
        {'may_copy', 'owner', 'patience', 'signer'},
    ),
    (ami.UploadAmi, request.Traits, set()),
    (ami.UploadAmi, units.FilesystemOptions, set()),
    (
        ami.UploadAmi,
        resolve.Choice,
        {'ask_secret', 'home', 'is_described', 'options', 'report'},
    ),
    (
        ami_change.SetAmi,
        update.ChangeRequest,
        # What is gone is what declarations name no more.
        {
            'gone_properties',
            'gone_tags',
            'member',
            'owner',
            'patience',
            'signer',
        },
    ),
    (copy.CopyAmi, copy_plan.CopyRequest, {'properties', 'settings'}),
    (boot.BootImage, run.BootRequest, set()),
    (
        local.BuildImage,
        build.BuildRequest,
        {'durable', 'name', 'identity', 'options', 'rooted'},
    ),
    (local.CheckSource, check.CheckRequest, {'name', 'now', 'version'}),
    (local.ShrinkImage, shrink.ShrinkSourceRequest, {'choice', 'source'}),
    (
        verify.VerifyAmi,
        VerifyRequest,
        {'elsewhere', 'is_deep', 'local', 'patience'},
    ),
)


class TestFill(base.TestCase):
    def test_each_field_has_its_option(self) -> None:
        for command, kind, others in _FILLED:
            parser = command(None, None).get_parser('openstack')
            named = {action.dest for action in parser._actions}
            fields = {field.name for field in dataclasses.fields(kind)}
            self.assertEqual(others, fields - named, kind)

    def test_what_was_not_given(self) -> None:
        parser = boot.BootImage(None, None).get_parser('openstack')
        found = options.fill(
            run.BootRequest,
            parser.parse_args(['x.img', '--cpus', '2']),
            memory=5,
        )
        self.assertEqual((2, 5), (found.cpus, found.memory))
        self.assertEqual(
            run.BootRequest(source=found.source).until, found.until
        )
