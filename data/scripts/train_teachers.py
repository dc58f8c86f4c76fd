"""Train the teachers of the embedded images and write their weights and checksums into data/teachers/.

    python data/scripts/train_teachers.py [ARCH ...] [--epochs 16] [--threads N]

Every epoch draws 10,000 new pictures, so a teacher never sees one twice. The few images and the test images
of `load_task("shapes")` come from other seeds. The weights after the last epoch are kept, whatever their
accuracy.
"""

import argparse
import hashlib
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

import fsc
from fsc.inputs import shapes
from fsc.inputs.builtin_tasks import builtin_task
from fsc.inputs.nets import NETS
from fsc.recover.training import crop_and_flip
from fsc.runtime import best_device, quiet

ARCHS = ("resnet20", "resnet56", "vgg9", "mobilenet")
FOLDER = Path(__file__).parents[1] / "teachers"
PICTURES, BATCH, TOP_RATE = 10_000, 128, 0.1


def train(arch: str, epochs: int, device: torch.device) -> nn.Module:
    """Train by SGD with Nesterov momentum and a one-cycle learning rate; convolutions run in bfloat16."""
    torch.manual_seed(0)
    net = NETS[arch](len(shapes.CLASSES)).to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(net.parameters(), lr=TOP_RATE, momentum=0.9, weight_decay=5e-4, nesterov=True)
    steps = PICTURES // BATCH
    one_cycle = torch.optim.lr_scheduler.OneCycleLR
    schedule = one_cycle(optimizer, TOP_RATE, total_steps=epochs * steps, pct_start=0.2)
    rng = torch.Generator().manual_seed(0)
    for epoch in range(epochs):
        start, total = time.time(), 0.0
        images, labels = shapes.draw(PICTURES, seed=1000 + epoch)
        for batch, classes in zip(images.split(BATCH)[:steps], labels.split(BATCH)[:steps], strict=True):
            x = builtin_task("shapes").normalise(batch).to(device)
            x = crop_and_flip(x, rng).contiguous(memory_format=torch.channels_last)
            with torch.autocast(device.type, torch.bfloat16):
                scores = net(x)
            loss = F.cross_entropy(scores.float(), classes.to(device))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        seconds = time.time() - start
        print(f"{arch} epoch {epoch + 1}/{epochs}: loss {total / steps:.3f}, {seconds:.0f} s", flush=True)
    return net.to("cpu", memory_format=torch.contiguous_format).eval()


def write_checksums() -> None:
    files = sorted(FOLDER.glob("*.safetensors"))
    lines = [f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in files]
    (FOLDER / "SHA256SUMS").write_text("".join(lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("archs", nargs="*", metavar="ARCH", help=f"of {', '.join(ARCHS)}; none: all")
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args()
    if unknown := set(given.archs) - set(ARCHS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(ARCHS)}")
    torch.set_num_threads(given.threads)
    FOLDER.mkdir(exist_ok=True)
    test = fsc.load_task("shapes").test
    for arch in given.archs or ARCHS:
        net = train(arch, given.epochs, best_device())
        save_file(net.state_dict(), FOLDER / f"{arch}.safetensors")
        write_checksums()
        parameters = sum(p.numel() for p in net.parameters())
        accuracy = f"{fsc.accuracy(net, test, progress=quiet):.1%} of {len(test)} test images"
        print(f"{arch}: {parameters:,} parameters, {accuracy}", flush=True)


if __name__ == "__main__":
    main()
