"""An environment for Polyphony in Python: two agents invent a number plate.

The first agent writes the letters, the second the digits, and both parts should have the same length.
Polyphony starts this program and writes one JSON object per line to its standard input. The program
answers each with one line on standard output. docs/environments.md describes every message.

    polyphony train docs/examples/process/number_plate.ron
    polyphony environment check --command '["python3", "docs/examples/process/number_plate.py"]'

Whatever the program prints to standard error appears in Polyphony's log.
"""

import json
import string
import sys

TOWNS = {
    "train": ["Ulm", "Bonn", "Jena", "Kiel"],
    "held_out": ["Trier", "Emden"],
}

# The settings that a recipe may change, as in `Process(command: […], settings: {"balance": 2.0})`, and
# their defaults.
settings = {"balance": 1.0}


def hello(call):
    """Describes the game. This is always the first call."""
    for name, value in call["settings"].items():
        if name not in settings:
            raise ValueError(f"there is no setting `{name}`, only `balance`")
        settings[name] = float(value)
    towns_as_tasks = {
        split: [{"id": town, "fields": {"town": town}} for town in towns]
        for split, towns in TOWNS.items()
    }
    return {
        "protocol": 1,
        "roles": [{"name": "letters"}, {"name": "digits"}],
        "reward_parts": ["letters", "digits", "balance"],
        "horizon": 1,
        "tasks": towns_as_tasks,
    }


def start(call):
    """Returns what each agent reads first."""
    town = call["task"]["fields"]["town"]
    return {"observations": [f"{town}: letters", f"{town}: digits"]}


def step(call):
    """Scores the agents' responses. The game has one turn, so the episode ends here."""
    letters, digits = [response["text"] for response in call["responses"]]
    shorter, longer = sorted([len(letters), len(digits)])
    reward = {
        "letters": fraction(letters, string.ascii_letters),
        "digits": fraction(digits, string.digits),
        "balance": settings["balance"] * shorter / max(longer, 1),
    }
    return {"reward": reward, "end": True}


def fraction(text, wanted):
    """The fraction of a text's characters that are among the wanted ones; 0 for an empty text."""
    return sum(character in wanted for character in text) / max(len(text), 1)


def answer(call):
    """Answers a call. An error is an answer too: Polyphony shows it and stops."""
    try:
        return {"hello": hello, "start": start, "step": step}[call["call"]](call)
    except (KeyError, ValueError) as error:
        return {"error": f"{type(error).__name__}: {error}"}


def main():
    for line in sys.stdin:
        call = json.loads(line)
        print(json.dumps({"id": call["id"], **answer(call)}), flush=True)


if __name__ == "__main__":
    main()
