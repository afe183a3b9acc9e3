# SPDX-License-Identifier: Apache-2.0

"""What keeps an AMI from booting where Nova checks signatures.

Nova checks the image, the kernel and the ramdisk, each by itself. Whether it
does so, it tells nobody. So an AMI that is signed, but not as a whole, is an
error, and one that is not signed while its kernel is, a warning only.
"""

from collections.abc import Iterator
import pathlib

from amiclient.findings import Finding
from amiclient.glance import model
from amiclient.glance import signatures
from amiclient.glance.transfer import image_data
from amiclient.glance.verify.context import Context
from amiclient.progress import Progress

_WHERE = 'where Nova checks signatures, no server boots'


def _unsigned(context: Context) -> Iterator[Finding]:
    if not any(signatures.is_signed(image) for _, image in context.images):
        return
    for kind, image in context.images:
        name, advice = context.name(kind, image), context.renewal(kind)
        lacking = signatures.missing(image)
        if lacking:
            message = f'{name} has a part of a signature, but no '
            message += f'{" and no ".join(lacking)}: {_WHERE}, and Glance '
            message += 'checked nothing'
            yield context.found(
                'signature-incomplete', kind, message, advice=advice
            )
        elif not signatures.is_signed(image):
            message = f'{name} is not signed, as other images of the AMI are: '
            yield context.found(
                'signature-missing',
                kind,
                f'{message}{_WHERE}',
                severity='error'
                if signatures.is_signed(context.image)
                else 'warning',
                advice=advice,
            )


def _certificate(context: Context) -> Iterator[Finding]:
    for kind, image in context.images:
        signature = signatures.Signature.of(image)
        if signature is None or context.certificates is None:
            continue
        name = context.name(kind, image)
        certificate = context.certificates[signature.certificate]
        if isinstance(certificate, str):
            message = f'{name} is signed, but the certificate '
            message += f'{signature.certificate} {certificate}; {_WHERE}'
            yield context.found(
                'signature-certificate',
                kind,
                message,
                advice=context.renewal(kind),
            )
            continue
        if certificate.lapse is not None:
            message = f'{name} is signed, but the certificate '
            message += f'{signature.certificate} {certificate.lapse}: Nova '
            message += 'refuses it for servers with trusted certificates'
            yield context.found('signature-expired', kind, message)
        yield from _false(context, kind, image, signature.known(image))


RULES = (_unsigned, _certificate)


def _false(
    context: Context,
    kind: model.Kind,
    image: model.ImageRecord,
    digest: str | None,
) -> Iterator[Finding]:
    signature = signatures.Signature.of(image)
    if signature is None or context.certificates is None:
        return
    certificate = context.certificates[signature.certificate]
    why = signatures.judge(signature, certificate, digest)
    if why is not None and not isinstance(certificate, str):
        name, advice = context.name(kind, image), context.renewal(kind)
        yield context.found(
            'signature-false', kind, f'{name}: {why}', advice=advice
        )


def data(
    context: Context,
    kind: model.Kind,
    image: model.ImageRecord,
    path: pathlib.Path,
    progress: Progress,
) -> Iterator[Finding]:
    """Check a signature against the data, if Glance's hash is another.

    :param path: the data, which is what Glance has a hash of.
    """
    signature = signatures.Signature.of(image)
    if signature is None or signature.known(image) is not None:
        return
    if signature.algorithm is not None:
        payload, doing = model.Payload.of(path), f'Checking {kind.noun}'
        digest = image_data.digest(
            payload, doing, progress, algorithm=signature.algorithm
        )
        yield from _false(context, kind, image, digest)
