"""Recipes: what they tell, and saving and loading a student without pickle."""

import copy
import json

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import fsc
from fsc.inputs.nets import NETS
from fsc.runtime import fingerprint
from fsc.surgery.recipe import recipe_in_front, set_aside, teacher_fingerprint, with_edit


@pytest.fixture
def teacher():
    torch.manual_seed(0)
    return NETS["resnet20"](10).eval()


@pytest.fixture
def student(teacher):
    return fsc.prune_filters(teacher, 0.5)


def test_a_loaded_student_is_the_saved_one(teacher, student, tmp_path):
    nn.init.normal_(student.layer1[0].bn1.running_mean)  # trained since it was cut
    fsc.save(student, tmp_path / "student.safetensors")
    loaded = fsc.load(tmp_path / "student.safetensors", teacher)
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(loaded(x), student(x)) and not loaded.training
    assert fsc.recipe_of(loaded) == fsc.recipe_of(student)
    assert list(tmp_path.iterdir()) == [tmp_path / "student.safetensors"]


def test_the_file_holds_no_pickle_and_its_recipe_is_json(student, tmp_path):
    data = fsc.save(student, tmp_path / "s.safetensors").read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    recipe = json.loads(header["__metadata__"]["fsc"])
    assert recipe["edits"][0]["asked"] == {"ratio": 0.5, "criterion": "l1", "coupled": False, "seed": 0}
    assert len(recipe["edits"][0]["slices"]["layer3.2.conv1"]["out"]) == 32


def test_channels_kept_after_two_edits_are_counted_in_the_teacher(teacher, student):
    twice = fsc.prune_filters(student, {"layer3.0.conv1": 0.75})
    kept = fsc.kept_channels(twice, "layer3.0.conv1")
    assert len(kept) == 8 and len(fsc.recipe_of(twice)) == 2
    assert torch.equal(twice.layer3[0].conv1.weight, teacher.layer3[0].conv1.weight[kept])
    assert fsc.kept_channels(twice, "conv1") is None


def test_a_student_of_a_student_is_rebuilt_from_the_first_teacher(teacher, student, tmp_path):
    twice = fsc.prune_filters(student, {"layer3.0.conv1": 0.75})
    fsc.save(twice, tmp_path / "twice.safetensors")
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(fsc.load(tmp_path / "twice.safetensors", teacher)(x), twice(x))


def test_a_copied_student_keeps_its_recipe(student):
    assert fsc.recipe_of(copy.deepcopy(student)) == fsc.recipe_of(student) != []


def test_a_recipe_is_refused_by_another_teacher(teacher, student, tmp_path):
    path = fsc.save(student, tmp_path / "s.safetensors")
    other = copy.deepcopy(teacher)
    other.linear.bias.data += 1
    for wrong in (other, NETS["vgg9"](10)):
        with pytest.raises(ValueError, match="was made for another teacher"):
            fsc.load(path, wrong)


def test_a_damaged_file_is_refused(teacher, student, tmp_path):
    path = fsc.save(student, tmp_path / "s.safetensors")
    for cut in (0, 5, 1000, path.stat().st_size - 1):
        (tmp_path / "cut").write_bytes(path.read_bytes()[:cut])
        with pytest.raises(ValueError, match="is damaged or no safetensors file"):
            fsc.load(tmp_path / "cut", teacher)


def test_a_file_with_one_wrong_bit_in_its_weights_is_refused(teacher, student, tmp_path):
    path = fsc.save(student, tmp_path / "s.safetensors")
    good = path.read_bytes()
    begin = 8 + int.from_bytes(good[:8], "little")
    for place in torch.linspace(begin, len(good) - 1, 12).long().tolist():
        damaged = bytearray(good)
        damaged[place] ^= 1 << (place % 8)
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="load: the weights in s.safetensors are damaged"):
            fsc.load(path, teacher)


def test_a_file_of_an_earlier_release_without_a_checksum_is_still_read(teacher, student, tmp_path):
    path = tmp_path / "old.safetensors"
    recipe = json.dumps({"format": 1, **student.fsc_recipe})
    save_file({n: t.clone() for n, t in student.state_dict().items()}, path, metadata={"fsc": recipe})
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(fsc.load(path, teacher)(x), student(x))


def test_weights_without_a_recipe_are_refused(teacher, tmp_path):
    save_file(teacher.state_dict(), tmp_path / "weights.safetensors")
    with pytest.raises(ValueError, match="holds weights but no recipe"):
        fsc.load(tmp_path / "weights.safetensors", teacher)
    with pytest.raises(ValueError, match="has no recipe"):
        fsc.save(teacher, tmp_path / "teacher.safetensors")
    assert not (tmp_path / "teacher.safetensors").exists()


def test_a_file_of_another_format_is_refused(teacher, student, tmp_path):
    text = json.dumps({"format": 99, **student.fsc_recipe})
    save_file(student.state_dict(), tmp_path / "s", metadata={"fsc": text})
    with pytest.raises(ValueError, match="is of format 99"):
        fsc.load(tmp_path / "s", teacher)


def test_a_missing_file_and_folder_are_named(teacher, student, tmp_path):
    with pytest.raises(FileNotFoundError, match="no file .*nowhere"):
        fsc.load(tmp_path / "nowhere", teacher)
    with pytest.raises(FileNotFoundError, match="no folder"):
        fsc.save(student, tmp_path / "nowhere" / "s")


def test_a_student_may_serve_as_a_teacher_and_its_recipe_comes_in_front_at_the_end(teacher, student):
    source = set_aside(copy.deepcopy(student))
    assert fsc.recipe_of(source) == [] and teacher_fingerprint(source) is None
    twice = fsc.prune_filters(source, {"layer3.0.conv1": 0.75})
    assert teacher_fingerprint(twice) == fingerprint(student) and len(fsc.recipe_of(twice)) == 1
    assert recipe_in_front(twice, student) is twice and teacher_fingerprint(twice) == fingerprint(teacher)
    assert fsc.recipe_of(twice) == fsc.recipe_of(fsc.prune_filters(student, {"layer3.0.conv1": 0.75}))
    plain = fsc.prune_filters(teacher, 0.5)
    assert fsc.recipe_of(recipe_in_front(plain, teacher)) == fsc.recipe_of(student)


ROWS = [
    {"name": "layer1.0.conv1", "error": 0.5, "rank": 16},
    {"name": "layer1.0.conv2", "error": float("nan"), "rank": 3},
]


def test_a_report_survives_saving_and_the_last_one_is_returned(teacher, student, tmp_path):
    first = with_edit(copy.deepcopy(student), student, {"edit": "fskd", "asked": {}, "report": ROWS})
    second = with_edit(copy.deepcopy(student), first, {"edit": "mir", "asked": {}, "report": ROWS[:1]})
    last = with_edit(copy.deepcopy(student), second, {"edit": "finetune", "asked": {}, "slices": {}})
    fsc.save(last, tmp_path / "s")
    for net in (last, fsc.load(tmp_path / "s", teacher)):
        assert len(fsc.report_of(net)) == 1
        report = fsc.report_of(net, "fskd")
        assert report["rank"].tolist() == [16, 3] and report["error"].isna().tolist() == [False, True]
        kept, expected = (fsc.kept_channels(n, "layer1.0.conv1") for n in (net, student))
        assert torch.equal(kept, expected)


def test_a_net_without_a_report_says_what_was_done_to_it(teacher, student):
    words = r"report_of: .* no report.\n  Its edits: prune_filters \(no report\)"
    with pytest.raises(ValueError, match=words):
        fsc.report_of(student)
    with pytest.raises(ValueError, match="no report of fskd.\n  Its edits: none, it is no student"):
        fsc.report_of(teacher, "fskd")


def test_dropped_blocks_are_dropped_again(teacher, student, tmp_path):
    dropped = copy.deepcopy(student)
    dropped.layer1[1] = nn.Identity()
    dropped = with_edit(dropped, student, {"edit": "drop_blocks", "asked": {}, "dropped": ["layer1.1"]})
    fsc.save(dropped, tmp_path / "s")
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(fsc.load(tmp_path / "s", teacher)(x), dropped(x))
