"""Times training steps of comlrl's MAGRPO trainer, on the workload of `polyphony bench`.

    python comlrl_step.py MODEL_DIRECTORY --precision bf16

Prints one JSON line with the fields of `polyphony bench`. Times are medians over the steps.
"""

import argparse
import json
import os
import resource
import time
from statistics import median

os.environ["WANDB_MODE"] = "disabled"

import torch
from comlrl.trainers.reinforce import MAGRPOConfig, MAGRPOTrainer
from datasets import Dataset
from transformers import AutoTokenizer

DTYPES = {"f32": "float32", "bf16": "bfloat16"}

# The post and the instructions of crates/polyphony/src/bench.rs, so that prompts have the same tokens.
POST = (
    "My sister wants to borrow my car for a week to move to another city. Last year she brought it back with a "
    "scratch on the door and an empty tank, and she never said a word about either. I need the car on two days "
    "of that week for a job interview and a dentist. My parents call me selfish, and my brother stays out of it. "
    "She says a rental is too expensive. Should I say no, drive her there myself, or is there a middle way?"
)
INSTRUCTIONS = [
    "In a sentence or two, say what this post is about.",
    "Retell this post at length, with many different words and phrases that link your sentences.",
]


def length_ratio(first, second):
    """The reward of `polyphony bench`: the second text should be 2.4 times as long as the first."""
    pairs = zip(first, second, strict=True)
    return [-abs(len(b) / max(len(a), 1) - 2.4) for a, b in pairs]


def formatter(tokenizer, instruction):
    def prompt(task):
        message = {"role": "user", "content": f"{instruction}\n\n{task['prompt']}"}
        return tokenizer.apply_chat_template([message], tokenize=False, add_generation_prompt=True)

    return prompt


def load_tokenizer(directory):
    tokenizer = AutoTokenizer.from_pretrained(directory)
    # comlrl takes the first padding token for the end of the prompt. The model's own padding token is the one
    # that ends each message of the chat template.
    tokenizer.pad_token = tokenizer.unk_token
    return tokenizer


class TimedTrainer(MAGRPOTrainer):
    """Records the seconds of each step, each generation and each update."""

    def __init__(self, **options):
        super().__init__(**options)
        self.seconds = {"step": [], "generation": [], "update": []}
        self.prompt_tokens, self.response_tokens = [], []

    def record(self, kind, function, *values, **options):
        start = time.perf_counter()
        result = function(*values, **options)
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        self.seconds[kind].append(time.perf_counter() - start)
        return result

    def _train_step_returns(self, *values, **options):
        return self.record("step", super()._train_step_returns, *values, **options)

    def _generate_completions(self, *values, **options):
        result = self.record("generation", super()._generate_completions, *values, **options)
        self.prompt_tokens.append(result["prompt_input_ids"].shape[1])
        self.response_tokens.append(sum(result["response_lens"]))
        return result

    def _update_from_samples(self, *values, **options):
        return self.record("update", super()._update_from_samples, *values, **options)


def per_step(values, agents):
    """Sums over the agents of each step."""
    return [sum(values[start : start + agents]) for start in range(0, len(values), agents)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("model", help="Hugging Face directory")
    parser.add_argument("--precision", choices=DTYPES, default="f32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--steps", type=int, default=3)
    arguments = parser.parse_args()

    torch.manual_seed(1)
    agents = len(INSTRUCTIONS)
    tokenizer = load_tokenizer(arguments.model)
    trainer = TimedTrainer(
        agent_model=arguments.model,
        num_agents=agents,
        tokenizer=tokenizer,
        train_dataset=Dataset.from_dict({"prompt": [POST] * arguments.steps}),
        reward_func=length_ratio,
        formatters=[formatter(tokenizer, instruction) for instruction in INSTRUCTIONS],
        model_config={"torch_dtype": DTYPES[arguments.precision]},
        args=MAGRPOConfig(
            num_agents=agents,
            num_turns=1,
            num_train_epochs=1,
            num_generations=arguments.samples,
            max_new_tokens=arguments.new_tokens,
            temperature=0.7,
            top_p=0.9,
            top_k=0,
            # One gradient step per agent and step.
            rollout_buffer_size=1,
            train_batch_size=1,
            eval_interval=0,
            agent_devices=arguments.device,
        ),
    )
    # No token ends a response early, as in `polyphony bench`.
    trainer.train(min_new_tokens=arguments.new_tokens, suppress_tokens=[tokenizer.pad_token_id])

    generation = median(per_step(trainer.seconds["generation"], agents))
    [tokens] = set(per_step(trainer.response_tokens, agents))
    print(json.dumps({
        "seconds_per_step": median(trainer.seconds["step"]),
        "generation_seconds_per_step": generation,
        "update_seconds_per_step": median(per_step(trainer.seconds["update"], agents)),
        "response_tokens_per_step": tokens,
        "generation_tokens_per_second": tokens / generation,
        # ru_maxrss is in KiB on Linux.
        "peak_rss_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
        "device_memory_gb": torch.cuda.max_memory_reserved() / 1e9 if torch.cuda.is_initialized() else None,
        "threads": torch.get_num_threads(),
        "prompt_tokens": trainer.prompt_tokens[:agents],
    }))


if __name__ == "__main__":
    main()
