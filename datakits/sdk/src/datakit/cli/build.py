"""``datakit build``: the image that a release would be, without releasing it."""

from __future__ import annotations

from datakit.cli._options import Json
from datakit.cli._output import out, print_json
from datakit.cli._registry import (
    Address,
    Base,
    CaFile,
    Datakit,
    Load,
    Output,
    PasswordFile,
    User,
    megabytes,
    open_chosen,
)


def build(
    name: Datakit,
    base: Base = None,
    output: Output = None,
    load: Load = False,
    registry: Address = None,
    username: User = None,
    password_file: PasswordFile = None,
    ca_file: CaFile = None,
    json_: Json = False,
) -> None:
    """Make the image of a datakit, without an engine; push nothing.

    The same commit on the same base has the same digest, on every machine.
    What is not committed goes in too, and the revision says so.
    """
    from datakit.model.project import Project
    from datakit.release.layout import load_into_engine, write_layout
    from datakit.release.releasing import build as build_it

    with open_chosen(registry, username, password_file, ca_file) as opened:
        built = build_it(Project.find(), name, opened, base=base)
        release = built.image.release
        reference = f"{opened.image(f'datakits/{release.name}')}:v{release.version}"
        if output is not None:
            write_layout(built.image, output, reference)
        loaded = load_into_engine(built.image, reference) if load else None
    if json_:
        print_json(
            {
                "image": reference,
                "digest": release.digest,
                "revision": release.revision,
                "contract": release.contract_hash,
                "base": {"name": release.base_name, "digest": release.base_digest},
                "includes": [each._asdict() for each in release.includes],
                "size": release.size,
                "own_size": len(built.image.layer),
                "output": str(output) if output else None,
                "loaded": loaded,
            }
        )
        return
    console = out()
    console.print(f"{reference}", markup=False)
    console.print(f"  digest    {release.digest}")
    console.print(f"  revision  {release.revision}")
    console.print(f"  base      {release.base_name}@{release.base_digest[:19]}…", markup=False)
    for each in release.includes:
        console.print(f"  includes  {each.name} {each.version} ({each.digest[:19]}…)", markup=False)
    console.print(f"  size      {megabytes(release.size)}, of which {megabytes(len(built.image.layer))} are its own")
    if output is not None:
        console.print(f"  written   {output}", markup=False)
    if loaded:
        console.print(f"  loaded    {loaded}", markup=False)
