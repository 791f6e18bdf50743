"""What an exploration holds is what the functions of the package say about the same video."""

import json
import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from explorer.exploration import NUM_CLIPS, Explorer, Sample
from vididi_hf import ViDiDiModel, ViDiDiVideoProcessor
from vididi_hf.clips_vididi import uniform_clips
from vididi_hf.data.motion import MOTIONS, describe_motion, render_motion


def pixels(axis):
    return torch.from_numpy(axis.images[0].get_array().copy()).permute(2, 0, 1)


class TestSample:
    @pytest.mark.parametrize(("motion", "number"), [("slide", 0), ("spin", 0), ("jitter", 3)])
    def test_shows_its_motion(self, motion, number):
        index = 8 * number + list(MOTIONS).index(motion)
        assert describe_motion("test", index)["label"] == motion
        assert torch.equal(Sample(motion, number).render(), render_motion("test", index))


class TestExplore:
    @pytest.fixture(scope="class")
    def found(self, explorer):
        return explorer.explore(Sample("spin"), clip=4)

    def test_pictures_show_the_clip_asked_for(self, explorer, found):
        frames = render_motion("test", 6)[uniform_clips(24, NUM_CLIPS, 10, 1)[4]]
        expected = explorer.processor.sample_clips(
            frames, do_sample_frames=False, size={"shortest_edge": 36 * 4}, crop_size=32 * 4
        )[0]
        assert torch.equal(found.clip, expected[:8])
        axes = found.derivatives.axes
        assert len(axes) == 3 * 8
        for axis, frame in zip(axes[:8], expected):
            assert torch.equal(pixels(axis), frame)
        for axis, frame in zip(found.taylor.axes[:5], expected[2:]):
            assert torch.equal(pixels(axis), frame)
        for axis, frame in zip(found.saliency.axes, expected[:8]):
            assert torch.equal(pixels(axis), frame)
        assert [axis.get_ylabel() for axis in found.saliency.axes[::8]] == ["video", "baseline", "ViDiDi"]

    def test_facts(self, found):
        assert found.facts == "24 frames of 64 × 64 pixels, 12 per second"
        assert found.label == "spin"
        assert 0 < found.changing < 1
        assert set(found.on_motion) == {"baseline", "ViDiDi"}
        assert all(0 < share < 1 for share in found.on_motion.values())

    @pytest.mark.parametrize(("shown", "order"), [("frames", 0), ("derivative", 1)])
    def test_neighbors_are_those_of_the_mean_embedding(self, explorer, checkpoints, shown, order):
        found = explorer.explore(Sample("bob", 1), shown=shown).neighbors
        for name, folder in checkpoints.items():
            model = ViDiDiModel.from_pretrained(folder).eval()
            processor = ViDiDiVideoProcessor.from_pretrained(folder)

            def embed(video, model=model, processor=processor):
                clips = torch.stack([video[rows] for rows in uniform_clips(len(video), NUM_CLIPS, 10, 1)])
                inputs = processor(list(clips), num_frames=8 + order, do_sample_frames=False)["pixel_values"]
                inputs = inputs[:, : 8 + order].diff(n=order, dim=1) if order else inputs[:, :8]
                with torch.no_grad():
                    pooled = model(inputs, derivative_order=order).pooler_output.mean(0)
                return F.normalize(pooled, dim=0)

            cosines = torch.stack([embed(render_motion("train", i)) for i in range(8)]) @ embed(
                Sample("bob", 1).render()
            )
            expected = cosines.argsort(descending=True)[:5].tolist()
            assert [neighbor.index for neighbor in found[name]] == expected
            np.testing.assert_allclose([n.cosine for n in found[name]], cosines[expected], atol=1e-5)
            assert [n.label for n in found[name]] == [list(MOTIONS)[i] for i in expected]

    def test_files(self, explorer, write_video, tmp_path):
        path = write_video(tmp_path / "own.mp4", 30)
        found = explorer.explore(path, shown="derivative", clip=0, frame_stride=2)
        assert found.label is None
        assert found.facts == "30 frames of 48 × 40 pixels, 12 per second"
        assert len(found.saliency.axes) == 3 * 8


class TestLoading:
    def test_encoders_must_see_the_same(self, checkpoints, tmp_path):
        shutil.copytree(checkpoints["ViDiDi"], tmp_path / "other")
        [file] = (tmp_path / "other").glob("*processor_config.json")
        file.write_text(json.dumps({**json.loads(file.read_text()), "crop_size": 30, "num_frames": 6}))
        with pytest.raises(
            ValueError,
            match=r"baseline .* and ViDiDi .* processors differ in (num_frames, crop_size|crop_size, num_frames)$",
        ):
            Explorer.from_pretrained({**checkpoints, "ViDiDi": str(tmp_path / "other")})
