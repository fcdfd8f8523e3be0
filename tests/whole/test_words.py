"""What is typed on the command line and what the run is given for it."""

import re
from pathlib import Path

import pytest
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import assume, example, given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from extract import choices
from extract.config import MODULE_GROUPS, Config
from extract.options import is_text, options, schema_of
from extract.run import job
from extract.words import KEPT, QUOTED, prepared
from support.recordings import write_wav
from support.stores import audit

TEXT_OPTIONS = [name for name, option in options().items() if is_text(option)]
PATHS = [name for name, option in options().items() if option.metadata.get("path")]
NUMBER_LIKE = ["2024_11_25", "1e5", "true", "007", "1_000", "0x10", "nan", "-1", ".5", "inf"]
NAMES = [
    *("语音 émile 😀", "a(1)", "choice(x)", "a=b#c", "R&D", "[raw]", "{x}:y", "~x", "nulls", "-m"),
    *(
        "it's",
        "'a' and 'b'",
        "'",
        'say "hi"',
        "100%",
        "$HOME",
        "a$",
        "x\udcff",
        "",
        "line\nbreak\n",
    ),
    *("tail\\", "tail\\\\", "a\\'b\\"),
]


@pytest.fixture
def given_to_the_run(command, monkeypatch):
    """Runs the command line up to `run_shard`; returns the config of each of its jobs."""
    configs = []

    def run_shard(config, *_, **_options):
        configs.append(config)
        raise ValueError("that is enough")

    monkeypatch.setattr(job, "run_shard", run_shard)

    def given_to_the_run(*argv):
        configs.clear()
        assert command("model=tiny_random", *argv) == 2
        return list(configs)

    return given_to_the_run


def value_of(name, config):
    return OmegaConf.select(OmegaConf.structured(config), name)


@pytest.mark.parametrize("name", [*NAMES, "a,b", " a ", "null,x", "[a,b]", "choice(a,b)"])
def test_a_name_is_taken_as_typed(given_to_the_run, name):
    argv = ["dataset=folder", f"dataset.path={name}", f"++model.revision={name}"]
    (config,) = given_to_the_run(*argv, f"store.dir={name}")
    assert (config.dataset.path, config.model.revision, config.store.dir) == (name,) * 3


def test_names_are_taken_as_typed_in_a_sweep(given_to_the_run):
    names = [*NAMES[::2], *NUMBER_LIKE[::2]]
    argv = ["dataset=folder", f"dataset.path={','.join(names)}", f"store.dir={NAMES[-1]}"]
    configs = given_to_the_run(*argv, "-m")
    assert [config.dataset.path for config in configs] == names
    assert {config.store.dir for config in configs} == {NAMES[-1]}


@pytest.mark.parametrize("name", NUMBER_LIKE)
def test_a_number_like_name_names_the_output_folder(given_to_the_run, name):
    argv = ["dataset=folder", f"dataset.path={name}/{name}", f"model.name={name}"]
    (config,) = given_to_the_run(*argv)
    assert config.store.dir == f"outputs/{Path(name).stem}/{name}-maxx0.95-alpha0.5"
    (config,) = given_to_the_run(*argv, f"dataset.name={name}")
    assert config.store.dir == f"outputs/{name}/{name}-maxx0.95-alpha0.5"


@given(st.sampled_from(TEXT_OPTIONS), st.text(st.characters() | st.sampled_from("\\'\"$,{}[]= \t")))
@example("dataset.path", "\\\\'\\'\\")
def test_any_text_is_what_the_option_is_given(option, text):
    assume("${" not in text and not KEPT.fullmatch(text) and text != "???")  # OmegaConf's `missing`
    (word,) = prepared([f"{option}={text}"])
    assert given_value(option, word) == text


@given(st.lists(st.text(st.characters() | st.sampled_from("\\'\"$ \t")), min_size=2, max_size=3))
def test_any_texts_of_a_sweep_are_what_its_jobs_are_given(texts):
    texts = [text.replace(",", "").strip(" \t") for text in texts]
    assume(not any("${" in text or KEPT.fullmatch(text) or text == "???" for text in texts))
    rests = (" , ".join(texts[start:]) for start in range(len(texts)))
    assume(not any(re.match(QUOTED, rest) for rest in rests))  # a comma in quotes separates nothing
    word, _flag = prepared(["-m", f"dataset.path={' , '.join(texts)}"])
    override = OverridesParser.create().parse_override(word)
    (jobs,) = BasicSweeper.split_arguments([override], None)
    assert [given_value("dataset.path", word) for (word,) in jobs] == texts


def config_with_the(option):
    """The schema in which the option's group is the first choice's that has it."""
    config, (group, _, key) = Config(), option.partition(".")
    for choice in choices.own(MODULE_GROUPS[group].modules) if group in MODULE_GROUPS else ():
        schema = schema_of(group, choice)
        if key in schema.__dataclass_fields__:
            setattr(config, group, schema())
            break
    return config


def given_value(option, word):
    """What Hydra's parser makes of a word, and the schema of that."""
    override = OverridesParser.create().parse_override(word)
    assert override.key_or_group == option
    config = OmegaConf.structured(config_with_the(option))
    OmegaConf.update(config, option, override.value())
    return OmegaConf.select(config, option)


def test_what_hydra_has_a_meaning_for_keeps_it(given_to_the_run):
    folder = ["dataset=folder", "dataset.path='a,b'"]
    (config,) = given_to_the_run(*folder, "store.dir=out-${dataset.name}-${audio.alpha}")
    assert (config.dataset.path, config.store.dir) == ("a,b", "out-a,b-0.5")
    (config,) = given_to_the_run(*folder, "dataset.extensions=[wav,.ogg]")
    assert config.dataset.extensions == ["wav", ".ogg"]
    a_list = ["dataset=gpt_sovits", *folder[1:]]
    (config,) = given_to_the_run(*a_list, "dataset.audio_dir=null")
    assert config.dataset.audio_dir is None
    (config,) = given_to_the_run(folder[0], '+dataset.path="it\'s"', "++model.revision=null")
    assert (config.dataset.path, config.model.revision) == ("it's", None)
    configs = given_to_the_run(
        *folder, "-m", "store.dir=${oc.env:NOT_SET,1}-${dataset.path}, '2,3'"
    )
    assert [config.store.dir for config in configs] == ["1-a,b", "2,3"]
    configs = given_to_the_run("-m", "dataset=folder,mydata", "dataset.path=x", "audio.alpha=0,1")
    assert [(c.dataset.name, c.audio.alpha) for c in configs] == [
        *[("x", 0.0), ("x", 1.0)],
        *[("mydata", 0.0), ("mydata", 1.0)],
    ]


def test_a_sweep_over_choices_gives_each_its_own_options(given_to_the_run):
    sweep = ["-m", "dataset=folder,mydata", "dataset.path=a(1), it's", "dataset.name=n"]
    configs = given_to_the_run(*sweep, "dataset.extensions=[wav,ogg]")
    assert [(c.dataset.path, c.dataset.extensions) for c in configs] == [
        (path, ["wav", "ogg"]) for _ in range(2) for path in ("a(1)", "it's")
    ]
    configs = given_to_the_run(*sweep[:2], "dataset.path='a,b'", "dataset.extensions=[a],null")
    assert [(c.dataset.path, c.dataset.extensions) for c in configs] == 2 * [
        *[("a,b", ["a"]), ("a,b", None)]
    ]


@pytest.mark.parametrize(
    "word",
    [
        *("dataset=a(1)", "model=x", "hydra.job.name=é", "hydra/launcher=basic", "audio.alpha=1"),
        *("~dataset.name", "dataset.extensions=[a,b]", "loader.num_workers=1_0", "precision=fp16"),
    ],
)
def test_other_words_are_left_to_hydra(word):
    assert prepared([word]) == [word]


@pytest.mark.parametrize("position", range(4))
def test_the_flag_of_a_sweep_may_stand_anywhere(given_to_the_run, position):
    words = ["dataset=demo", "audio.alpha=0.1,0.2", "store.dir=x"]
    words.insert(position, "-m")
    assert [config.audio.alpha for config in given_to_the_run(*words)] == [0.1, 0.2]


def test_the_word_that_an_option_takes_stays_behind_it():
    assert prepared(["--config-dir", "a=b", "x=1", "-c", "job"]) == [
        *["x=1", "--config-dir", "a=b", "-c", "job"]
    ]


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("typed", ["~/x", "'~/x'", '"~/x"'])
def test_a_tilde_is_the_home_folder(given_to_the_run, monkeypatch, tmp_path, name, typed):
    monkeypatch.setenv("HOME", str(tmp_path))
    dataset = {"dataset.audio_dir": "gpt_sovits", "dataset.root": "tsv"}.get(name, "folder")
    chosen = [f"dataset={dataset}", "dataset.path=x"]
    chosen += ["quantizer=gpt_sovits"] * name.startswith("quantizer.")
    chosen += ["store=webdataset"] * (name == "store.scratch")
    (config,) = given_to_the_run(*chosen, f"{name}={typed}")
    assert value_of(name, config) == str(tmp_path / "x")


def test_every_path_of_the_schema_is_known_as_one():
    assert sorted(PATHS) == [
        *("dataset.audio_dir", "dataset.path", "dataset.root", "model.path", "quantizer.path"),
        *("store.dir", "store.scratch"),
    ]


def test_the_home_folder_names_its_output(given_to_the_run, monkeypatch, tmp_path):
    (tmp_path / "v1.0").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    (config,) = given_to_the_run("dataset=folder", "dataset.path=~/v1.0")
    assert config.dataset.name == "v1.0"


@pytest.mark.parametrize("name", ["语音 [a(1)] it's", "2024_11_25", "~/R&D"])
def test_a_run_reads_and_writes_the_folder_that_was_typed(command, tmp_path, monkeypatch, name):
    monkeypatch.setenv("HOME", str(tmp_path))
    source, store = (tmp_path / name.removeprefix("~/") for name in (name, f"{name}.out"))
    write_wav(source / "a.wav")
    argv = ["dataset=folder", f"dataset.path={name}", f"store.dir={name}.out", "device=cpu"]
    assert command(*argv, "model=tiny_random", "loader.num_workers=0") == 0
    audit(store, {"a.wav"})
    assert set(tmp_path.iterdir()) == {source, store}
