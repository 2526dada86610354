"""A canary: neither the warehouse's password nor the keytab's bytes are found in anything that a run leaves."""

from __future__ import annotations

import base64
from pathlib import Path

from .house import FINANCE, House, wait_until
from .test_broken_connections import is_staging


def test_no_secret_is_in_any_output_log_report_argument_or_environment_of_a_run(house: House) -> None:
    password = house.finance.password
    keytab = house.tickets.keytab.read_bytes()
    canaries = [password.encode(), base64.b64encode(password.encode()), keytab[-16:], keytab[-16:].hex().encode()]

    house.fill(20_000, start=1000)
    house.server.fault("stall 3 after 10000 matching Customer")
    run = house.begin(FINANCE, run_id="first", DATAKIT_LOG="json")
    wait_until(lambda: is_staging(house), run)
    process = Path("/proc", str(run.process.pid))
    seen = {name: (process / name).read_bytes() for name in ("cmdline", "environ")}
    ended = [run.end()]
    assert 0 == ended[0].code, ended[0].err
    house.finance.server.stop()
    ended.append(house.load(FINANCE, run_id="down"))
    house.finance.server.start()
    house.secrets.publish("finance-db/password", f"{password}-no-more")
    ended.append(house.load(FINANCE, run_id="refused"))
    house.server.fault("error 18456")
    ended.append(house.load(FINANCE, run_id="denied"))
    assert [0, 75, 77, 77] == [one.code for one in ended]

    for number, one in enumerate(ended):
        seen |= {f"out {number}": one.out.encode(), f"err {number}": one.err.encode()}
    checked = set(house.root.rglob("*")) | set(house.root.parent.glob("report-*.json"))
    checked |= {house.server.log, house.finance.server.log}
    seen |= {str(path): path.read_bytes() for path in checked if path.is_file()}
    assert len([name for name in seen if "report-" in name]) == len(ended)
    seen["load log"] = str(house.query(FINANCE, "SELECT * FROM bronze._dk_loads")).encode()
    found = [name for name, content in seen.items() if any(canary in content for canary in canaries)]
    assert [] == found
