"""A URL that is no log's is refused before anything is connected to, in the words of ``log.url``."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from featureflow.errors import SettingsError
from featureflow.store.log.open import open_log


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("nope://h", "'nope' is no log"),
        ("kafka://", "is no list of Kafka servers with ports"),
        ("kafka://h", "is no list of Kafka servers with ports"),
        ("kafka://h:9092,:9092", "is no list of Kafka servers with ports"),
        ("kafka://h:66000", "is no list of Kafka servers with ports"),
        ("kafka://h:0", "is no list of Kafka servers with ports"),
        ("kafka://me:hid/den@h:9092", "is no list of Kafka servers with ports"),
        ("redis://h:66000/0", "Port out of range"),
        ("redis://h/0?decode_responses=1", "there is no option 'decode_responses'"),
        ("redis://h/0?retry_on_timeout=1", "there is no option 'retry_on_timeout'"),
        ("redis://h/0?ssl_ca_certs=/ca.pem", "ssl_ca_certs is of TLS"),
        ("rediss://h/0?ssl_ca_certs=/not/there.pem", "ssl_ca_certs=/not/there.pem cannot be read"),
        ("unix://", "a path is missing"),
    ],
)
def test_a_url_that_is_no_log_is_refused_in_the_words_of_its_setting(url: str, said: str) -> None:
    with pytest.raises(SettingsError, match=rf"log\.url.*{re.escape(said)}.*write kafka://") as caught:
        open_log(url)
    assert "hid" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["kafka://h:9092", "kafka://me:p%2Fss@h:1,[::1]:65535", "redis://h", "redis://:p@h:1/15", "rediss://h/0", "unix:///a/b.sock?db=2"]
)
def test_a_url_that_names_a_log_opens_without_its_server(url: str, tmp_path: Path) -> None:
    open_log(url).close()
