# SPDX-License-Identifier: Apache-2.0

"""Downloads from a real server, by TLS."""

import hashlib
import os
import pathlib
import types
from typing import Any

import fixtures

from amiclient import errors
from amiclient.glance import retry
from amiclient.glance.transfer import image_data
from amiclient import sparse
from amiclient import staging
from amiclient.tests import base
from amiclient.tests.faults import downloads as acts
from amiclient.tests.unit.glance import uploads
from amiclient.tests.unit.web import site
from amiclient.web import cache
from amiclient.web import fetch

SIZE = 300 * 1024 + 7
QUICK = retry.Patience(attempts=3, stall=60.0, backoff=0.01, longest=0.02)


def sha512(data: bytes) -> image_data.Digest:
    return image_data.Digest('sha512', hashlib.sha512(data).hexdigest())


class WebTest(base.TestCase):
    secure = True

    def setUp(self) -> None:
        super().setUp()
        home = self.tmp()
        self.useFixture(
            fixtures.EnvironmentVariable('XDG_CACHE_HOME', str(home))
        )
        self.useFixture(fixtures.EnvironmentVariable(cache.SIZE))
        self.place = home / 'amiclient' / 'downloads'
        self.data = self.random.randbytes(SIZE)
        self.site = self.useFixture(
            site.Site(self.tmp(), secure=self.secure, web=self.data)
        )
        self.watcher = uploads.Watcher()

    def remote(self, **given: Any) -> fetch.Remote:
        if not given.keys() & {'digest', 'checksum_url', 'insecure'}:
            given['digest'] = sha512(self.data)
        return fetch.Remote(**{'url': f'{self.site.url}web', **given})

    def fetch(self, **given: Any) -> bytes:
        with fetch.opened(
            self.remote(**given), progress=self.watcher, patience=QUICK
        ) as path:
            self.assertEqual('web', path.name)
            return path.read_bytes()

    def refuse(self, kind: type[Exception], **given: Any) -> str:
        message = str(self.assertRaises(kind, self.fetch, **given))
        self.assertNotIn('\n', message)
        return message

    def kept(self) -> list[str]:
        """Name the files that are in the cache."""
        return sorted(
            str(path.relative_to(self.place).name)
            for path in self.place.rglob('*')
            if path.is_file()
        )

    def parts(self) -> list[pathlib.Path]:
        return [*self.place.rglob('.web*.part')]


class TestFetch(WebTest):
    def test_kept_for_the_next_run(self) -> None:
        self.assertEqual(self.data, self.fetch())
        self.assertEqual([('Downloading', SIZE)], self.watcher.tasks)
        self.assertEqual(SIZE, self.watcher.done)
        self.assertEqual(self.data, self.fetch())
        self.assertEqual([None], self.site.ranges('web'))
        self.assertEqual(('Checking download', SIZE), self.watcher.tasks[-1])
        self.assertEqual(['web'], self.kept())
        self.assertEqual(0o700, self.place.stat().st_mode & 0o777)

    def test_changed_in_the_cache(self) -> None:
        self.fetch()
        (path,) = self.place.rglob('web')
        path.write_bytes(b'anything')
        self.assertEqual(self.data, self.fetch())

    def test_under_another_name(self) -> None:
        self.fetch()
        with fetch.opened(self.remote(url=f'{self.site.url}new')) as path:
            self.assertEqual('new', path.name)
        self.assertEqual([], self.site.ranges('new'))

    def test_goes_on_after_a_cut(self) -> None:
        self.site.way.rule(acts.close(0.5), path='/web$')
        self.assertEqual(self.data, self.fetch())
        first, second = self.site.ranges('web')
        self.assertEqual((None, 'bytes='), (first, second[:6]))
        self.assertEqual('"1"', self.site.asked[1][1]['If-Range'])

    def test_goes_on_in_the_next_run(self) -> None:
        for _ in range(QUICK.attempts):
            self.site.way.rule(acts.close(0.5), path='/web$')
        told = self.refuse(errors.TransferError)
        self.assertIn('run the command again to continue', told)
        (part,) = self.parts()
        # Whole blocks are asked for no more; older urllib3 keeps parts of one.
        size = part.stat().st_size // sparse.BLOCK * sparse.BLOCK
        self.assertGreater(size, SIZE // 4)
        self.site.asked.clear()
        self.assertEqual(self.data, self.fetch())
        self.assertEqual([f'bytes={size}-'], self.site.ranges('web'))

    def test_replaced_on_the_server_after_a_cut(self) -> None:
        new = self.random.randbytes(SIZE + 5)

        def replace() -> None:
            self.site.files['web'] = new
            self.site.headers['web'] = {'ETag': '"2"'}

        self.site.way.rule(acts.during(0.5, replace), path='/web$')
        self.assertEqual(new, self.fetch(digest=sha512(new)))

    def test_without_ranges(self) -> None:
        self.site.way.rule(acts.close(0.5), path='/web$')
        self.site.way.rule(acts.no_range, path='/web$')
        self.assertEqual(self.data, self.fetch())

    def test_without_a_length(self) -> None:
        self.site.way.rule(acts.chunked, path='/web$')
        self.assertEqual(self.data, self.fetch())

    def test_named_as_if_it_was_compressed(self) -> None:
        self.site.headers['web'] = {'Content-Encoding': 'x-gzip'}
        self.assertEqual(self.data, self.fetch())

    def test_other_bytes(self) -> None:
        self.site.way.rule(acts.alter, path='/web$')
        told = self.refuse(errors.TransferError)
        self.assertIn(f'is not that of {self.site.url}web', told)
        self.assertIn('check the hash', told)
        self.assertEqual([], self.kept())
        self.assertEqual([None], self.site.ranges('web'))

    def test_a_wrong_part_of_an_earlier_run(self) -> None:
        with cache.entry(cache.directory(), sha512(self.data), 'web') as path:
            part = path.with_name('.web.download.part')
            part.write_bytes(bytes(64 * 1024))
        self.assertEqual(self.data, self.fetch())
        self.assertEqual(['bytes=65536-', None], self.site.ranges('web'))

    def test_all_of_it_was_there(self) -> None:
        size = 64 * 1024
        self.data = self.site.files['web'] = self.data[:size]
        with cache.entry(cache.directory(), sha512(self.data), 'web') as path:
            path.with_name('.web.download.part').write_bytes(self.data)
        self.assertEqual(self.data, self.fetch())
        self.assertEqual([], self.site.ranges('web'))

    def test_another_process_downloads_it(self) -> None:
        with cache.entry(cache.directory(), sha512(self.data), 'web') as path:
            part = staging.Partial(path, 'download')

            def finish(seconds: float) -> None:
                with part:
                    part.write(self.data)
                    part.finish()

            clock = types.SimpleNamespace(sleep=finish)
            self.patch(fetch, 'time', clock)
            with self.assertLogs(fetch.LOG) as logs:
                self.assertEqual(self.data, self.fetch())
        self.assertIn('waiting for another process', logs.output[0])
        self.assertEqual([], self.site.asked)

    def test_endless(self) -> None:
        self.useFixture(fixtures.EnvironmentVariable(cache.SIZE, '100K'))
        self.site.way.rule(acts.chunked, path='/web$')
        told = self.refuse(errors.TooLargeError)
        self.assertIn(cache.SIZE, told)
        self.assertEqual([], self.kept())

    def test_not_there(self) -> None:
        told = self.refuse(errors.NotFoundError, url=f'{self.site.url}gone')
        self.assertIn('gone failed: Not Found (HTTP 404); check the', told)
        self.assertEqual([], self.kept())

    def test_unknown_authority(self) -> None:
        self.useFixture(fixtures.EnvironmentVariable('REQUESTS_CA_BUNDLE'))
        told = self.refuse(errors.CloudError)
        self.assertIn('no secure connection', told)
        self.assertIn('REQUESTS_CA_BUNDLE', told)

    def test_redirects(self) -> None:
        self.site.headers['a'] = {'Location': '/web'}
        self.site.headers['b'] = {'Location': 'http://127.0.0.1:1/web'}
        with fetch.opened(self.remote(url=f'{self.site.url}a')) as path:
            self.assertEqual('a', path.name)
        told = self.refuse(
            errors.CloudError, url=f'{self.site.url}b', digest=sha512(b'')
        )
        self.assertIn(
            'b redirects to http://127.0.0.1:1/web, which is not https', told
        )

    def test_urls_that_are_none(self) -> None:
        for url, why in (
            ('https://[::1/x', 'is not a URL: '),
            ('https://127.0.0.1:99999/x', 'is not a URL: '),
            ('https://127.0.0.1:1/\udcff', 'is not a URL: '),
            ('https:///x', 'not the https URL of a file; '),
            ('ftp://127.0.0.1/x', 'not the https URL of a file; '),
        ):
            told = self.refuse(errors.UsageError, url=url)
            self.assertIn(why, told)
        told = self.refuse(errors.UsageError, checksum_url='https://[::1/x')
        self.assertIn('https://[::1/x is not a URL: ', told)

    def test_no_hash(self) -> None:
        told = self.refuse(errors.UsageError, insecure=False)
        self.assertIn('--insecure-source', told)
        self.assertEqual([], self.site.asked)
        self.site.way.rule(acts.close(0.5), path='/web$')
        self.assertEqual(self.data, self.fetch(insecure=True))
        self.assertEqual([], os.listdir(self.place))


class TestHttp(WebTest):
    secure = False

    def test_only_if_asked_for(self) -> None:
        told = self.refuse(errors.UsageError)
        self.assertIn('--insecure-source', told)
        self.assertEqual([], self.site.asked)
        digest = sha512(self.data)
        self.assertEqual(self.data, self.fetch(insecure=True, digest=digest))
