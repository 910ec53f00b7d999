"""The demo's claims, on a real kernel: the project's promises in one run."""

import re
import subprocess
import sys

import pytest

from integration.demo.agent import CHECKOUT
from integration.demo.stage import Stage


@pytest.mark.kernel
def test_all_claims_hold():
    done = subprocess.run(
        [sys.executable, "-m", "integration.demo", "--here", "--seconds", "1"],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"All \d+ claims held\. [\d,]+ requests, 0 lost;.*restart with 0 writes\.", done.stdout)


def test_all_claims_hold_on_iptables():
    """On the kernel of this machine, which need not have IPVS; if that will not do either, in a guest."""
    done = subprocess.run(
        [sys.executable, "-m", "integration.demo", "--seconds", "1", "--backend", "iptables"],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Schedulers and ipvsadm have no part in it" in done.stdout
    assert re.search(r"All \d+ claims held\. [\d,]+ requests, 0 lost;.*restart with 0 writes\.", done.stdout)


def test_one_broken_claim_is_the_verdict(capsys):
    stage = Stage(began=0.0)
    stage.claim("the sun is up", True)
    stage.claim("the moon is made of cheese", False, "0 g of 7.3e22 kg")
    assert stage.verdict("2 things looked at") is False
    shown = capsys.readouterr().out
    assert shown.count("the moon is made of cheese: 0 g of 7.3e22 kg") == 2
    assert "1 of 2 claims did not hold. 2 things looked at." in shown


def test_all_held_says_so(capsys):
    stage = Stage(began=0.0)
    stage.claim("the sun is up", True)
    assert stage.verdict("1 thing looked at") is True
    assert "All 1 claims held. 1 thing looked at." in capsys.readouterr().out


def test_text_of_others_is_shown_as_it_is(capsys):
    stage = Stage(began=0.0)
    stage.quote(["[bold]not markup[/bold]", "x" * 300], limit=5)
    shown = capsys.readouterr().out
    assert "[bold]not markup[/bold]" in shown
    stage.quote([str(number) for number in range(9)], limit=3)
    assert "6 lines more" in capsys.readouterr().out
