"""Objects of detectors: a detector made by hand whose scores depend on known patches."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cam_core import (
    Candidates,
    DetectionModel,
    adapt,
    cam_method,
    detect,
    explain,
    explain_objects,
    missed_objects,
    object_shares,
    object_target,
    object_targets,
)
from cam_core.adapters.candidates import Detections
from cam_core.detection.explain_objects import fuse_levels
from cam_core.spatial.geometry import Window

PATCH, SIZE, CHANNELS, CLASSES = 8, 32, 3, 3


class PatchDetector(nn.Module):
    """Two levels; each candidate is a patch, and its logits depend on this patch alone."""

    def __init__(self):
        super().__init__()
        self.fine = nn.Sequential(nn.Conv2d(3, CHANNELS, PATCH, PATCH), nn.ReLU())
        self.coarse = nn.Sequential(nn.Conv2d(3, CHANNELS, 2 * PATCH, 2 * PATCH), nn.ReLU())
        self.head = nn.Linear(CHANNELS, CLASSES)
        for conv in (self.fine[0], self.coarse[0]):
            nn.init.uniform_(conv.weight, -0.05, 0.1)

    def forward(self, images: Tensor) -> list[Tensor]:
        levels = [self.fine(images), self.coarse(images)]
        return [self.head(level.flatten(2).transpose(1, 2)) for level in levels]


def cells(patch: int) -> Tensor:
    count = SIZE // patch
    top, left = torch.meshgrid(torch.arange(count), torch.arange(count), indexing="ij")
    corner = torch.stack([left, top], -1).reshape(-1, 2) * patch
    return torch.cat([corner, corner + patch], 1).float()


BOXES = torch.cat([cells(PATCH), cells(2 * PATCH)])


def read(outputs: list[Tensor], images: Tensor) -> list[Candidates]:
    logits = torch.cat(outputs, 1)
    return [Candidates(BOXES.to(images.device), row, row.detach().sigmoid()) for row in logits]


def model_of(net: nn.Module, **options) -> DetectionModel:
    return DetectionModel(net, read=read, levels=["fine", "coarse"], **options)


@pytest.fixture
def net():
    return PatchDetector().eval().requires_grad_(False)


@pytest.fixture
def images():
    return torch.rand(2, 3, SIZE, SIZE)


@cam_method(paper="none")
def plain_gradient(gradients):
    """The gradient summed over channels."""
    return gradients.sum(1)


def fine_box(row: int, column: int) -> Tensor:
    return torch.tensor([column, row, column + 1, row + 1]) * float(PATCH)


class TestMaps:
    def test_layercam_is_the_patch_by_hand(self, net, images):
        result = explain(model_of(net), images, "layercam", object_target(fine_box(1, 2), 1))
        activations = net.fine(images)
        expected = torch.zeros(2, 4, 4)
        weights = net.head.weight[1].relu()
        expected[:, 1, 2] = (weights * activations[:, :, 1, 2]).sum(1)
        assert torch.allclose(result.maps["layercam", "fine"][:, 0], expected, atol=1e-6)
        assert not result.maps["layercam", "coarse"].any()
        scores = net.head(activations[:, :, 1, 2])[:, 1]
        assert torch.allclose(result.scores[:, 0], scores, atol=1e-6)
        assert result.targets.tolist() == [[1], [1]]

    def test_fused_map_covers_the_coarse_patch(self, net, images):
        box = torch.tensor([16.0, 0.0, 32.0, 16.0])
        result = explain_objects(model_of(net), images, [box[None]] * 2, [torch.tensor([0])] * 2)
        fused = result.maps["layercam"]
        assert fused.shape == (2, 1, 4, 4)
        raw = result.explanation.maps["layercam", "coarse"].relu()
        assert torch.allclose(fused, nn.functional.interpolate(raw, (4, 4), mode="bilinear"))
        assert float(raw[0, 0, 0, 1]) > 0
        assert not raw[0, 0, 1].any()
        assert not raw[0, 0, :, 0].any()

    def test_nothing_outside_of_the_receptive_field_matters(self, net, images):
        target = object_target(fine_box(2, 0), 2)
        masked = torch.zeros_like(images)
        masked[:, :, 16:24, :8] = images[:, :, 16:24, :8]
        whole = explain(model_of(net), images, ["layercam", "hirescam"], target)
        part = explain(model_of(net), masked, ["layercam", "hirescam"], target)
        for method in ("layercam", "hirescam"):
            here = whole.maps[method, "fine"][:, 0, 2, 0]
            assert here.any()
            assert torch.equal(here, part.maps[method, "fine"][:, 0, 2, 0])
        assert torch.equal(whole.scores, part.scores)

    def test_gradient_is_plain_autograd(self, net, images):
        result = explain(model_of(net), images, plain_gradient, object_target(fine_box(3, 3), 0))
        expected = torch.zeros(4, 4)
        expected[3, 3] = net.head.weight[0].sum()
        assert torch.allclose(
            result.maps["plain_gradient", "fine"][0, 0], expected.detach(), atol=1e-6
        )

    def test_objects_do_not_see_each_other(self, net, images):
        boxes = [torch.stack([fine_box(0, 0), fine_box(3, 1)]), fine_box(2, 2)[None]]
        labels = [torch.tensor([0, 1]), torch.tensor([1])]
        together = explain_objects(model_of(net), images, boxes, labels)
        for image, column, box, label in (
            (0, 0, boxes[0][0], 0),
            (0, 1, boxes[0][1], 1),
            (1, 0, boxes[1][0], 1),
        ):
            alone = explain(
                model_of(net), images[image : image + 1], "layercam", object_target(box, label)
            )
            key = ("layercam", "fine")
            assert torch.allclose(
                together.explanation.maps[key][image, column], alone.maps[key][0, 0], atol=1e-6
            )
        assert together.valid.tolist() == [[True, True], [True, False]]
        assert together.maps["layercam"][1, 1].isnan().all()
        assert together.scores[1, 1].isnan()
        assert together.labels.tolist() == [[0, 1], [1, -1]]
        assert together.status()["layercam"][1][1] == "nan"

    def test_ablationcam_by_hand(self, net, images):
        result = explain(
            model_of(net), images, "ablationcam", object_target(fine_box(1, 1), 2), ["fine"]
        )
        activations = net.fine(images)
        here = activations[:, :, 1, 1]
        score = net.head(here)[:, 2]
        drop = net.head.weight[2] * here / score[:, None].abs()
        expected = torch.einsum("nc,nchw->nhw", drop, activations)
        assert torch.allclose(result.maps["ablationcam", "fine"][:, 0], expected, atol=1e-5)

    def test_smoothing_follows_the_object_into_mirrored_images(self, net, images):
        target = object_target(fine_box(1, 3), 1)
        result = explain(model_of(net), images, ["hirescam", "hirescam+aug"], target)
        smooth = result.maps["hirescam_aug", "fine"][:, 0]
        assert [tuple(p) for p in smooth[0].nonzero().tolist()] == [(1, 3)]
        here = images[:, :, 8:16, 24:32]
        looks = [view * gain for view in (here, here.flip(-1)) for gain in (0.9, 1.0, 1.1)]
        weight = net.head.weight[1][:, None, None]
        expected = torch.stack([(net.fine(look) * weight).sum((1, 2, 3)) for look in looks]).mean(0)
        assert torch.allclose(smooth[:, 1, 3], expected, atol=1e-6)

    def test_class_index_is_the_strongest_candidate(self, net, images):
        result = explain(model_of(net), images, plain_gradient, 1)
        strongest = torch.cat(net(images), 1)[..., 1].max(1)
        assert torch.allclose(result.scores[:, 0], strongest.values, atol=1e-6)
        for image, place in enumerate(strongest.indices.tolist()):
            found = torch.cat(
                [
                    result.maps["plain_gradient", level][image, 0].flatten()
                    for level in ("fine", "coarse")
                ]
            )
            assert found.nonzero().flatten().tolist() == [place]

    def test_model_is_left_as_it_came(self, net, images, protect):
        net.train()
        check = protect(net)
        explain_objects(model_of(net), images, [fine_box(0, 0)[None]] * 2, [torch.tensor([0])] * 2)
        check()

        def broken(outputs, rows=None):
            raise RuntimeError("broken")

        with pytest.raises(RuntimeError, match="broken"):
            explain(model_of(net), images, "layercam", broken)
        check()


class TestMatching:
    def test_score_or_overlap_decides(self):
        boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 8], [20, 20, 30, 30]])
        logits = torch.tensor([[1.0], [2.0], [9.0]])
        outputs = _outputs(Candidates(boxes, logits, logits.sigmoid()))
        strong = object_target(boxes[0], 0)
        near = object_target(boxes[0], 0, prefer="overlap")
        assert strong(outputs).tolist() == [2.0]
        assert near(outputs).tolist() == [1.0]
        assert object_target(boxes[0], 0, min_iou=0.9)(outputs).tolist() == [1.0]
        details = strong.details(outputs)
        assert details.candidates.tolist() == [1]
        assert details.ious.tolist() == pytest.approx([0.8])
        assert details.found.tolist() == [[0, 0, 10, 8]]
        assert details.probabilities.tolist() == pytest.approx([logits[1].sigmoid().item()])

    def test_no_candidate_is_no_object_but_a_finite_score(self):
        boxes = torch.tensor([[0.0, 0, 10, 10], [5, 5, 9, 9]])
        logits = torch.tensor([[1.0], [-3.0]])
        outputs = _outputs(Candidates(boxes, logits, logits.sigmoid()))
        target = object_target(torch.tensor([50.0, 50, 60, 60]), 0)
        assert target.valid(outputs).tolist() == [False]
        assert target(outputs).tolist() == [-3.0]
        assert target.details(outputs).ious.isnan().all()
        empty = _outputs(Candidates(torch.zeros(0, 4), torch.zeros(0, 1), torch.zeros(0, 1)))
        assert target.valid(empty).tolist() == [False]
        assert target(empty).tolist() == [0.0]

    def test_boxes_of_each_class(self):
        boxes = torch.tensor(
            [[[0.0, 0, 10, 10], [40, 40, 50, 50]], [[40, 40, 50, 50], [0, 0, 10, 10]]]
        )
        logits = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
        outputs = _outputs(Candidates(boxes, logits, logits.softmax(1)))
        here = torch.tensor([0.0, 0, 10, 10])
        assert object_target(here, 0)(outputs).tolist() == [1.0]
        assert object_target(here, 1)(outputs).tolist() == [4.0]

    def test_rows_choose_the_boxes(self):
        boxes = torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 30]])
        logits = torch.tensor([[1.0], [2.0]])
        target = object_target(boxes, torch.tensor([0, 0]))
        one = Candidates(boxes, logits, logits.sigmoid())
        assert target(_outputs(one, one)).tolist() == [1.0, 2.0]
        assert target(_outputs(one, one, one), rows=[1, 1, 0]).tolist() == [2.0, 2.0, 1.0]
        with pytest.raises(ValueError, match="2 boxes for 3 images"):
            target(_outputs(one, one, one))

    def test_nearest_will_do_in_changed_images(self):
        boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 4, 4], [50, 50, 60, 60]])
        logits = torch.tensor([[1.0], [2.0], [9.0]])
        outputs = _outputs(Candidates(boxes, logits, logits.sigmoid()))
        target = object_target(torch.tensor([6.0, 6, 12, 12]), 0)
        assert target.valid(outputs).tolist() == [False]
        moved = target.moved(False, (64, 64), (64, 64))
        assert moved.valid(outputs).tolist() == [True]
        assert moved(outputs).tolist() == [1.0]
        far = object_target(torch.tensor([20.0, 20, 30, 30]), 0).moved(False, (64, 64), (64, 64))
        assert far.valid(outputs).tolist() == [False]

    def test_moved_by_hand(self):
        target = object_target(torch.tensor([10.0, 20, 30, 60]), 0)
        assert target.moved(False, (100, 80), (150, 160)).boxes.tolist() == [[20, 30, 60, 90]]
        assert target.moved(True, (100, 80), (100, 80)).boxes.tolist() == [[50, 20, 70, 60]]

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"box": torch.zeros(3)}, "box must be a tensor of shape"),
            ({"label": 0.5}, "label must be one class index"),
            ({"label": torch.tensor([1, 2])}, "label must be one class index"),
            ({"min_iou": 0}, "min_iou must be in"),
            ({"prefer": "size"}, "prefer: 'size' is unknown"),
        ],
    )
    def test_arguments_are_checked(self, change, message):
        given = {"box": torch.zeros(4), "label": 1, **change}
        with pytest.raises(ValueError, match=message):
            object_target(given.pop("box"), given.pop("label"), **given)

    def test_ragged_lists_are_checked(self):
        with pytest.raises(ValueError, match="as many as the images"):
            object_targets([torch.zeros(1, 4)], [])
        with pytest.raises(ValueError, match=r"boxes of image 0 must have shape \(2, 4\)"):
            object_targets([torch.zeros(1, 4)], [torch.tensor([1, 2])])
        assert len(object_targets([torch.zeros(0, 4)], [torch.tensor([])])) == 1

    def test_unknown_class(self, net, images):
        with pytest.raises(ValueError, match="class index 7 is out of range; the model has 3"):
            explain(model_of(net), images, "layercam", object_target(fine_box(0, 0), 7))

    def test_no_detector(self, toys, images):
        with pytest.raises(ValueError, match="is no detector that is recognised"):
            explain_objects(toys.GapNet(), images)
        with pytest.raises(ValueError, match="object_target needs a detector"):
            explain(toys.GapNet(), images, "layercam", object_target(fine_box(0, 0), 0), ["relu"])

    def test_options_are_checked(self, net):
        with pytest.raises(ValueError, match="a detector has boxes beside its scores"):
            DetectionModel(net, output="head")
        with pytest.raises(ValueError, match="confidence must be"):
            DetectionModel(net, confidence=25)
        with pytest.raises(ValueError, match="where PatchDetector has its boxes"):
            explain(DetectionModel(net), torch.rand(1, 3, SIZE, SIZE))


def _outputs(*candidates: Candidates):
    from cam_core.adapters.candidates import DetectorOutputs

    return DetectorOutputs(None, list(candidates), (64, 64))


class TestPredicted:
    def test_detections_from_the_confidence_on_are_explained(self, net, images):
        probabilities = torch.cat(net(images), 1).sigmoid()
        level = float(probabilities.amax(2).flatten().sort().values[-5])
        result = explain_objects(model_of(net, confidence=level), images)
        assert int(result.valid.sum()) == 5
        best = probabilities.amax(2)
        for image in range(2):
            own = result.valid[image]
            expected = best[image][best[image] >= level].sort(descending=True).values
            assert torch.allclose(result.probabilities[image, own], expected, atol=1e-6)
            assert torch.equal(result.found[image, own], result.boxes[image, own])
            assert torch.equal(result.ious[image, own], torch.ones(int(own.sum())))

    def test_none_at_all(self, net, images):
        result = explain_objects(model_of(net, confidence=0.9999), images)
        assert result.valid.tolist() == [[False], [False]]
        assert result.maps["layercam"].isnan().all()

    def test_at_most_twenty(self, net, images):
        result = explain_objects(model_of(net, confidence=1e-6), images)
        assert result.valid.shape == (2, 20)

    def test_background_is_never_predicted(self, net, images):
        model = model_of(net, background=1)
        outputs = model.forward(images)
        assert (model.candidates(outputs)[:, 1] == -1).all()
        assert all((d.labels != 1).all() for d in model.detections(outputs))

    def test_missed_objects_are_explained_by_what_is_there(self, net, images):
        found = detect(model_of(net, confidence=1e-6), images)
        away = (found[0].boxes != fine_box(1, 1)).any(1).nonzero()[:1, 0]
        first = Detections(*(value[away] for value in found[0]))
        truth = torch.cat([first.boxes, fine_box(1, 1)[None]])
        labels = torch.tensor([int(first.labels), 2])
        missed = missed_objects([first], [truth], [labels], confidence=1e-6)
        assert missed[0].tolist() == [1]
        result = explain_objects(model_of(net), images[:1], [truth[missed[0]]], [labels[missed[0]]])
        logit = net.head(net.fine(images[:1])[0, :, 1, 1])[2]
        assert float(result.scores[0, 0]) == pytest.approx(float(logit), abs=1e-6)
        assert float(result.probabilities[0, 0]) == pytest.approx(float(logit.sigmoid()), abs=1e-6)

    def test_weak_detections_do_not_count_as_found(self):
        box, label = torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([1])
        weak = Detections(box, label, torch.tensor([0.1]), torch.tensor([0]))
        other = weak._replace(scores=torch.tensor([0.9]), labels=torch.tensor([2]))
        sure = weak._replace(scores=torch.tensor([0.9]))
        lists = missed_objects([weak, other, sure], [box] * 3, [label] * 3)
        assert [m.tolist() for m in lists] == [[0], [0], []]
        with pytest.raises(ValueError, match="as many as the images"):
            missed_objects([weak], [], [])


class TestTogether:
    def test_class_map_is_the_maximum_over_its_objects(self, net, images):
        boxes = [torch.stack([fine_box(0, 0), fine_box(3, 3), fine_box(1, 2)])] * 2
        labels = [torch.tensor([0, 0, 1])] * 2
        result = explain_objects(model_of(net), images, boxes, labels, "hirescam")
        maps = result.maps["hirescam"]
        raw = result.class_maps("hirescam", equal=False)
        assert sorted(raw) == [0, 1]
        assert torch.equal(raw[0], torch.maximum(maps[:, 0], maps[:, 1]))
        assert torch.equal(raw[1], maps[:, 2])
        unit = maps / maps.amax((2, 3), keepdim=True).clamp_min(1e-38)
        assert torch.allclose(result.class_maps("hirescam")[0], unit[:, :2].amax(1))
        assert torch.allclose(result.all_objects("hirescam"), unit.amax(1))
        with pytest.raises(ValueError, match="'gradcam' was not computed; choose from hirescam"):
            result.class_maps("gradcam")

    def test_class_without_an_object_in_an_image(self, net, images):
        boxes = [fine_box(0, 0)[None], fine_box(1, 1)[None]]
        result = explain_objects(
            model_of(net), images, boxes, [torch.tensor([0]), torch.tensor([1])]
        )
        classes = result.class_maps("layercam")
        assert classes[0][1].isnan().all()
        assert classes[1][0].isnan().all()
        assert not classes[0][0].isnan().any()

    def test_shares_by_hand(self):
        heat = torch.zeros(1, 2, 4, 4)
        heat[0, 0, 0, 0], heat[0, 0, 3, 3], heat[0, 0, 0, 3] = 6, 3, 1
        boxes = torch.tensor([[[0, 0, 0.5, 0.5], [0.5, 0.5, 1, 1]]])
        shares = object_shares(heat, boxes)
        assert [float(s[0, 0]) for s in shares] == pytest.approx([0.6, 0.3, 0.1])
        assert all(s[0, 1].isnan() for s in shares)
        everyone = torch.tensor([[[0, 0, 0.5, 0.5], [0.5, 0.5, 1, 1], [0.75, 0, 1, 0.25]]])
        more = object_shares(heat, boxes, everyone)
        assert [float(s[0, 0]) for s in more] == pytest.approx([0.6, 0.4, 0.0], abs=1e-6)
        with pytest.raises(ValueError, match="boxes must have shape"):
            object_shares(heat, boxes[:, :1])

    def test_shared_ground_belongs_to_the_object(self):
        heat = torch.ones(1, 2, 4, 4)
        boxes = torch.tensor([[[0, 0, 0.5, 1.0], [0, 0, 1, 0.5]]])
        shares = object_shares(heat, boxes)
        assert shares.inside[0].tolist() == [0.5, 0.5]
        assert shares.on_others[0].tolist() == [0.25, 0.25]
        assert shares.elsewhere[0].tolist() == [0.25, 0.25]

    def test_shares_of_a_result(self, net, images):
        result = explain_objects(
            model_of(net), images, [fine_box(1, 1)[None]] * 2, [torch.tensor([0])] * 2
        )
        shares = result.shares("layercam")
        # bilinear heat of one cell: three quarters of each axis' triangle lie within the cell
        assert shares.inside[0, 0] == pytest.approx(0.75**2, abs=0.01)
        assert shares.on_others[0, 0] == 0
        others = [torch.tensor([[0.0, 0, SIZE, SIZE]])] * 2
        assert result.shares("layercam", others).elsewhere[0, 0] == pytest.approx(0, abs=1e-5)

    def test_shares_are_of_the_picture_and_not_of_its_padding(self, net, images):
        """A picture in the middle rows of a letterbox: heat above and below it counts nowhere."""
        box = fine_box(1, 1)
        result = explain_objects(model_of(net), images, [box[None]] * 2, [torch.tensor([0])] * 2)
        window = Window((SIZE // 2, SIZE), 0, -SIZE / 4, SIZE, 3 * SIZE / 4)
        shares = result.shares("layercam", size=(SIZE // 2, SIZE), windows=[window] * 2)
        heat = F.interpolate(result.maps["layercam"], (SIZE, SIZE), mode="bilinear")[0, 0]
        on_picture = heat[SIZE // 4 : 3 * SIZE // 4]
        left, top, right, bottom = (int(v) for v in box)
        inside = heat[max(top, SIZE // 4) : bottom, left:right].sum() / on_picture.sum()
        assert shares.inside[0, 0] == pytest.approx(float(inside), abs=1e-4)
        assert shares.on_others[0, 0] == 0
        total = sum(float(s[0, 0]) for s in shares)
        assert total == pytest.approx(1)

    def test_own_box_among_all_boxes_is_no_other(self):
        """Random boxes, off the pixels' borders: shares lie in [0, 1] and sum to 1."""
        generator = torch.Generator().manual_seed(0)
        heat = torch.rand(8, 1, 7, 9, generator=generator)
        corners = torch.rand(8, 1, 4, generator=generator).sort(-1).values[..., [0, 1, 2, 3]]
        shares = object_shares(heat, corners, corners)
        assert (shares.on_others == 0).all()
        more = torch.cat([corners, torch.rand(8, 3, 4, generator=generator).sort(-1).values], 1)
        shares = object_shares(heat, corners, more)
        for share in shares:
            assert ((share >= 0) & (share <= 1)).all()
        torch.testing.assert_close(sum(shares), torch.ones(8, 1))

    def test_a_map_without_a_class_is_there_without_an_object(self, net, images):
        none = [torch.zeros(0, 4)] * 2
        result = explain_objects(
            model_of(net),
            images,
            none,
            [torch.zeros(0, dtype=torch.long)] * 2,
            ["eigencam", "layercam"],
        )
        assert not result.valid.any()
        assert all(maps.isnan().all() for maps in result.maps.values())
        found = explain_objects(
            model_of(net), images, [fine_box(1, 1)[None]] * 2, [torch.tensor([0])] * 2, "eigencam"
        )
        assert list(result.class_free) == ["eigencam"]
        assert torch.equal(result.class_free["eigencam"], found.maps["eigencam"][:, 0])

    def test_fusion_keeps_the_units(self):
        strong, weak = torch.full((1, 1, 2, 2), 4.0), torch.full((1, 1, 4, 4), 0.5)
        assert torch.equal(fuse_levels([weak, strong]), torch.full((1, 1, 4, 4), 4.0))

    def test_boxes_and_labels_belong_together(self, net, images):
        with pytest.raises(ValueError, match="belong together"):
            explain_objects(model_of(net), images, boxes=[])
        with pytest.raises(ValueError, match="boxes must be 2"):
            explain_objects(model_of(net), images, [], [])


def test_an_adapted_detector_is_taken_as_it_is(net):
    model = model_of(net)
    assert adapt(model) is model
