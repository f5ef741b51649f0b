"""Settings: the order of their places, their bounds, and messages that name the key and never a secret."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.configuration import load, redacted, require_secret
from gateway.settings import BadSettings, Settings

SECRET = "0123456789abcdef0123456789abcdef"


def loaded(config: Path | None = None, flags: dict[str, object] | None = None, **environ: str) -> Settings:
    return load(config, environ=environ, flags=flags)


def problems(config: Path | None = None, flags: dict[str, object] | None = None, **environ: str) -> list[str]:
    with pytest.raises(BadSettings) as bad:
        load(config, environ=environ, flags=flags)
    return bad.value.problems


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / "applause.toml"


def test_nothing_has_to_be_set() -> None:
    assert loaded() == Settings()
    assert loaded().is_embedded
    assert loaded(PATH="/bin", HOME="/", APPLAUSED="no setting of ours") == Settings()


def test_a_flag_beats_the_environment_beats_the_file_beats_the_default(config: Path) -> None:
    config.write_text("[server]\nport = 1001\nhost = '::1'\n[log]\nlevel = 'debug'\n")
    environ = {"APPLAUSE_SERVER__PORT": "1002", "APPLAUSE_SERVER__HOST": "0.0.0.0"}
    assert loaded(config).server.port == 1001
    assert loaded(config, **environ).server.port == 1002
    settings = loaded(config, {"server.port": 1003, "server.host": None}, **environ)
    assert (settings.server.port, settings.server.host, settings.log.level) == (1003, "0.0.0.0", "debug")


def test_each_kind_of_value_can_be_given_as_text() -> None:
    settings = loaded(
        APPLAUSE_DATA_DIR="/data",
        APPLAUSE_SOCKET__ALLOWED_ORIGINS="https://a.example, capacitor://localhost,",
        APPLAUSE_USERS__CREATE_UNKNOWN="false",
        APPLAUSE_USERS__FOLLOW_COUNTS="applause",
        APPLAUSE_LIMITS__ACTIONS_PER_SECOND="0.5",
        APPLAUSE_LOG__LEVEL="warning",
    )
    assert settings.data_path == Path("/data")
    assert settings.socket.allowed_origins == ("https://a.example", "capacitor://localhost")
    assert settings.users.create_unknown is False
    assert settings.users.follow_counts == "applause"
    assert settings.limits.actions_per_second == 0.5
    assert settings.log.level == "warning"


def test_the_database_has_a_name_that_others_use_too() -> None:
    assert not loaded(DATABASE_URL="postgres://db/a").is_embedded
    both = loaded(DATABASE_URL="postgres://db/a", APPLAUSE_DATABASE__URL="postgresql://db/b")
    assert both.database.url == "postgresql://db/b"


def test_a_secret_can_stand_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text(SECRET + "\n")
    assert loaded(APPLAUSE_AUTH__SECRET_FILE=str(file)).auth.secret == SECRET
    assert loaded(APPLAUSE_AUTH__PREVIOUS_SECRET_FILE=str(file)).auth.previous_secret == SECRET
    file.write_text("postgresql://db/a\n")
    assert loaded(DATABASE_URL_FILE=str(file)).database.url == "postgresql://db/a"
    assert problems(APPLAUSE_AUTH__SECRET_FILE=str(tmp_path / "missing"))[0].startswith("APPLAUSE_AUTH__SECRET_FILE: ")
    both = problems(APPLAUSE_AUTH__SECRET=SECRET, APPLAUSE_AUTH__SECRET_FILE=str(file))
    assert both == ["APPLAUSE_AUTH__SECRET and APPLAUSE_AUTH__SECRET_FILE are both set: one of them, please"]


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("APPLAUSE_SERVER__PORT", "65536", "server.port: Expected int <= 65535 (it is '65536')"),
        ("APPLAUSE_SERVER__PORT", "http", "server.port: Expected int, got str (it is 'http')"),
        ("APPLAUSE_SERVER__PORT", "", "server.port: Expected int, got str (it is '')"),
        ("APPLAUSE_SOCKET__MAX_CONNECTIONS", "0", "socket.max_connections: Expected int >= 1 (it is '0')"),
        ("APPLAUSE_AUTH__LEEWAY_S", "61", "auth.leeway_s: Expected float <= 60.0 (it is '61')"),
        ("APPLAUSE_LANE__DEADLINE_S", "nan", "lane.deadline_s: Expected float >= 0.1 (it is 'nan')"),
        ("APPLAUSE_USERS__CREATE_UNKNOWN", "maybe", "users.create_unknown: Expected bool, got str (it is 'maybe')"),
        ("APPLAUSE_LOG__LEVEL", "loud", "log.level: Invalid enum value 'loud' (it is 'loud')"),
        (
            "APPLAUSE_SOCKET__ALLOWED_ORIGINS",
            "https://a.example/path",
            "socket.allowed_origins: each origin is * or scheme://host[:port] without a path "
            "(it is 'https://a.example/path')",
        ),
    ],
)
def test_a_value_out_of_bounds_is_an_error_that_names_its_key(name: str, value: str, said: str) -> None:
    assert problems(**{name: value}) == [f"{name}: {said}"]


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"APPLAUSE_AUTH__SECRET": "short"}, "auth.secret: at least 16 bytes"),
        ({"APPLAUSE_AUTH__PREVIOUS_SECRET": "short"}, "auth.previous_secret: at least 16 bytes"),
        ({"APPLAUSE_AUTH__SECRET": "-----BEGIN PUBLIC KEY-----"}, "auth.secret: a secret for HS256, not a key"),
        ({"APPLAUSE_AUTH__JWKS_URL": "ftp://a.example/jwks"}, "auth.jwks_url: begins with https://"),
        ({"APPLAUSE_AUTH__JWKS_URL": "https://"}, "auth.jwks_url: begins with https://"),
        ({"APPLAUSE_AUTH__JWKS_URL": "https://u:hunter2@a.example/"}, "auth.jwks_url: begins with https://"),
        ({"APPLAUSE_SERVER__TRUSTED_PROXIES": "10.0.0.0/8,proxy"}, "server.trusted_proxies: proxy is no network"),
        ({"APPLAUSE_SERVER__TRUSTED_PROXIES": "10.0.0.1/8"}, "server.trusted_proxies: 10.0.0.1/8 is no network"),
        ({"DATABASE_URL": "mysql://db"}, "database.url: begins with postgresql://"),
        ({"APPLAUSE_SOCKET__MAX_MESSAGE_BYTES": "2000000"}, "socket.send_queue_bytes: at least"),
        ({"APPLAUSE_LANE__QUEUE": "10"}, "lane.queue: at least lane.batch"),
        ({"APPLAUSE_PUSH__PROVIDER": "fcm"}, "push.fcm_credentials_file: needed"),
        ({"APPLAUSE_PUSH__FCM_URL": "fcm.example"}, "push.fcm_url: begins with https://"),
        ({"APPLAUSE_PUSH__TYPES": "video_like,points_earned"}, "push.types: points_earned is never pushed"),
    ],
)
def test_values_have_to_fit_each_other(environ: dict[str, str], said: str) -> None:
    (problem,) = problems(**environ)
    assert problem.startswith(said)


def test_unknown_names_are_errors_with_a_hint(config: Path) -> None:
    (problem,) = problems(APPLAUSE_SOKET__MAX_CONNECTIONS="5")
    assert problem.endswith("did you mean APPLAUSE_SOCKET__MAX_CONNECTIONS?")
    assert "did you mean" not in problems(APPLAUSE_QQQ="5")[0]
    assert "did you mean APPLAUSE_SERVER__PORT?" in problems(APPLAUSE_SERVER_PORT="5")[0]
    config.write_text("[server]\nprot = 1\n[sockets]\nmax_topics = 1\n")
    assert problems(config) == [
        f"{config}: unknown key server.prot; did you mean server.port?",
        f"{config}: unknown key sockets; did you mean socket?",
    ]


def test_a_file_is_typed_and_has_to_be_there(config: Path) -> None:
    assert "No such file" in problems(config)[0]
    config.write_text("[server\n")
    assert problems(config)[0].startswith(f"{config}: ")
    config.write_text("server = 5\n[log]\nlevel = 5\n")
    assert len(problems(config)) == 2
    config.write_text('[server]\nport = "8080"\n')
    assert problems(config) == [f"{config}: server.port: Expected int, got str (it is '8080')"]
    config.write_text('[socket]\nallowed_origins = ["https://a.example"]\n')
    assert loaded(config).socket.allowed_origins == ("https://a.example",)


def test_all_problems_are_told_at_once() -> None:
    assert len(problems(APPLAUSE_SERVER__PORT="x", APPLAUSE_LANE__BATCH="0", APPLAUSE_NOTHING="1")) == 3


def test_no_message_and_no_list_shows_a_secret(config: Path) -> None:
    config.write_text("[auth]\nsecret = 12345\n")
    assert "12345" not in str(problems(config))
    assert "hidden" not in str(problems(APPLAUSE_AUTH__SECRET="hidden"))
    assert "hunter2" not in str(problems(DATABASE_URL="mysql://u:hunter2@db"))
    assert "hidden" not in str(problems(APPLAUSE_AUTH__PREVIOUS_SECRET="hidden"))
    both = {"APPLAUSE_AUTH__SECRET": SECRET, "APPLAUSE_AUTH__PREVIOUS_SECRET": SECRET[::-1]}
    shown = dict(redacted(loaded(DATABASE_URL="postgresql://u:hunter2@db/a", **both)))
    assert shown["auth.previous_secret"] == "(set)"
    assert (shown["auth.secret"], shown["database.url"], shown["server.port"]) == ("(set)", "(set)", "8080")


def test_a_secret_can_only_be_made_up_beside_a_database_of_ones_own() -> None:
    require_secret(loaded())
    require_secret(loaded(DATABASE_URL="postgresql://db/a", APPLAUSE_AUTH__SECRET=SECRET))
    require_secret(loaded(DATABASE_URL="postgresql://db/a", APPLAUSE_AUTH__JWKS_URL="https://a.example/jwks"))
    with pytest.raises(BadSettings, match=r"auth\.secret: needed"):
        require_secret(loaded(DATABASE_URL="postgresql://db/a"))
