//! Bounds the cost of a tokenizer's regular expressions.
//!
//! The engine (Oniguruma) backtracks: a pattern such as `(a+)+b` tries exponentially many ways to
//! match one text, and the engine's limit of ten million steps applies to each position of the text
//! anew. A pattern is therefore parsed here first. It is accepted if the steps at one position are at
//! most proportional to the length of the text that one of its loops can match. This holds if in each
//! alternative at most one loop is followed by something that can fail, and that loop contains no choice.
//!
//! The patterns of all known models pass. Syntax that this parser does not know is refused.

use std::{iter::Peekable, str::Chars};

/// The longest pattern, in bytes.
const MAX_BYTES: usize = 16 << 10;
/// The most characters, classes and anchors of a pattern after its repetitions are written out. An
/// unbounded loop counts with its minimum.
const MAX_SIZE: u64 = 4096;
/// Approximately the most ranges of characters in a property such as `\p{L}`, of eight bytes each.
pub(super) const PROPERTY_RANGES: u64 = 800;
/// The deepest nesting of groups.
const MAX_DEPTH: usize = 32;
/// The most combinations of optional parts and alternatives before something that can fail.
const MAX_CHOICES: u64 = 64;
/// A repetition whose bounds differ by at most this counts as a choice, any other one as a loop.
const MAX_CHOICE_RANGE: u32 = 8;

/// The properties of a pattern that passed.
#[derive(Debug, PartialEq)]
pub(super) struct Pattern {
    /// The length of its shortest match, in characters.
    pub(super) shortest: u64,
    /// Approximately the number of ranges of characters that the engine stores for it.
    pub(super) ranges: u64,
}

/// Parses a pattern.
///
/// # Errors
/// If it could take too many steps, or uses syntax that this parser does not know.
pub(super) fn read(pattern: &str) -> Result<Pattern, String> {
    if pattern.len() > MAX_BYTES {
        return Err(format!(
            "has {} bytes, but at most {MAX_BYTES} are allowed",
            pattern.len()
        ));
    }
    let mut parser = Parser {
        chars: pattern.chars().peekable(),
        depth: 0,
    };
    let node = parser.alternatives()?;
    if parser.chars.next().is_some() {
        return Err("has a ) without a (".to_owned());
    }
    if node.total(&|_: &Node| 1) > MAX_SIZE {
        return Err(format!(
            "repeats too much: it stands for more than {MAX_SIZE} characters"
        ));
    }
    let cost = node.cost(false)?;
    if cost.loops > 1 {
        return Err(
            "backtracks too much: an alternative may have at most one repetition before a part \
             that can fail"
                .to_owned(),
        );
    }
    if cost.choices > MAX_CHOICES {
        return Err(format!(
            "backtracks too much: its optional parts and alternatives have more than \
             {MAX_CHOICES} combinations"
        ));
    }
    Ok(Pattern {
        shortest: node.shortest(),
        ranges: node.total(&Node::ranges),
    })
}

#[derive(Debug)]
enum Node {
    /// This character.
    Char(char),
    /// Any character of a class of about this many ranges.
    Class(u64),
    /// A position in the text, such as its end or a word boundary.
    Anchor,
    /// A positive or negative lookahead or lookbehind.
    Lookaround(Box<Node>),
    Sequence(Vec<Node>),
    Alternatives(Vec<Node>),
    Repeat {
        body: Box<Node>,
        min: u32,
        /// `None` if there is no upper bound.
        max: Option<u32>,
    },
}

/// A bound of the steps at one position of a text, up to a constant: `choices` times the text's length
/// to the power of `loops`.
#[derive(Clone, Copy)]
struct Cost {
    loops: u64,
    choices: u64,
}

impl Node {
    /// The cost. `can_fail` is whether the part that follows can fail, so that the engine backtracks to try
    /// the other ways.
    fn cost(&self, can_fail: bool) -> Result<Cost, String> {
        let mut cost = Cost {
            loops: 0,
            choices: 1,
        };
        match self {
            Node::Char(_) | Node::Class(_) | Node::Anchor => {}
            Node::Lookaround(body) => {
                cost = body.cost(false)?;
                cost.loops = cost.loops.max(body.loops());
            }
            Node::Sequence(nodes) => {
                let mut can_fail = can_fail;
                for node in nodes.iter().rev() {
                    let each = node.cost(can_fail)?;
                    cost.loops = cost.loops.saturating_add(each.loops);
                    cost.choices = cost.choices.saturating_mul(each.choices);
                    can_fail |= !node.always_matches();
                }
            }
            Node::Alternatives(nodes) => {
                let mut choices = 0_u64;
                for node in nodes {
                    let each = node.cost(can_fail)?;
                    cost.loops = cost.loops.max(each.loops);
                    cost.choices = cost.choices.max(each.choices);
                    choices = choices.saturating_add(each.choices);
                }
                if can_fail {
                    cost.choices = choices;
                }
            }
            &Node::Repeat {
                ref body,
                min,
                max: Some(max),
            } if min == max => {
                let each = body.cost(can_fail || !body.always_matches())?;
                cost.loops = each.loops.saturating_mul(min.into());
                cost.choices = each.choices.saturating_pow(min);
            }
            Node::Repeat {
                body,
                min: 0,
                max: Some(1),
            } => {
                cost = body.cost(can_fail)?;
                cost.choices = cost.choices.saturating_add(u64::from(can_fail));
            }
            // After its minimum count it succeeds, and the engine never backtracks into it.
            Node::Repeat { body, min, .. } if !can_fail && *min <= 1 => cost = body.cost(false)?,
            Node::Repeat { body, min, max } => {
                if !body.is_plain() {
                    return Err(
                        "repeats a group that has repetitions, optional parts or alternatives \
                         itself, which can take forever"
                            .to_owned(),
                    );
                }
                match max.map(|max| max - min) {
                    _ if !can_fail => {}
                    Some(range) if range <= MAX_CHOICE_RANGE => {
                        cost.choices = u64::from(range) + 1;
                    }
                    _ => cost.loops = 1,
                }
            }
        }
        Ok(cost)
    }

    /// Whether it matches in at most one way, and never the empty text.
    fn is_plain(&self) -> bool {
        match self {
            Node::Char(_) | Node::Class(_) => true,
            Node::Anchor | Node::Lookaround(_) => false,
            Node::Sequence(nodes) => !nodes.is_empty() && nodes.iter().all(Node::is_plain),
            Node::Alternatives(nodes) => {
                let mut letters = Vec::new();
                nodes.iter().all(|node| match node.letter() {
                    Some(letter) if !letters.contains(&letter) => {
                        letters.push(letter);
                        true
                    }
                    _ => false,
                })
            }
            Node::Repeat { body, min, max } => *min > 0 && *max == Some(*min) && body.is_plain(),
        }
    }

    /// The single character that this matches, in lower case; `None` if it is not a single character.
    fn letter(&self) -> Option<char> {
        match self {
            Node::Char(letter) => letter.to_lowercase().next(),
            Node::Sequence(nodes) if nodes.len() == 1 => nodes[0].letter(),
            _ => None,
        }
    }

    /// Whether it matches at every position of every text.
    fn always_matches(&self) -> bool {
        match self {
            Node::Char(_) | Node::Class(_) | Node::Anchor | Node::Lookaround(_) => false,
            Node::Sequence(nodes) => nodes.iter().all(Node::always_matches),
            Node::Alternatives(nodes) => nodes.iter().any(Node::always_matches),
            Node::Repeat { body, min, .. } => *min == 0 || body.always_matches(),
        }
    }

    /// The number of unbounded loops in it.
    fn loops(&self) -> u64 {
        match self {
            Node::Char(_) | Node::Class(_) | Node::Anchor => 0,
            Node::Lookaround(body) => body.loops(),
            Node::Sequence(nodes) | Node::Alternatives(nodes) => {
                nodes.iter().map(Node::loops).sum()
            }
            Node::Repeat { body, max, .. } => body.loops() + u64::from(max.is_none()),
        }
    }

    /// The length of the shortest match, in characters.
    fn shortest(&self) -> u64 {
        match self {
            Node::Char(_) | Node::Class(_) => 1,
            Node::Anchor | Node::Lookaround(_) => 0,
            Node::Sequence(nodes) => nodes.iter().map(Node::shortest).sum(),
            Node::Alternatives(nodes) => nodes.iter().map(Node::shortest).min().unwrap_or(0),
            Node::Repeat { body, min, .. } => body.shortest().saturating_mul((*min).into()),
        }
    }

    /// The sum of `part` over all characters, classes and anchors that the engine compiles it to.
    fn total(&self, part: &impl Fn(&Node) -> u64) -> u64 {
        match self {
            Node::Char(_) | Node::Class(_) | Node::Anchor => part(self),
            Node::Lookaround(body) => body.total(part),
            Node::Sequence(nodes) | Node::Alternatives(nodes) => {
                let totals = nodes.iter().map(|node| node.total(part));
                totals.fold(0, u64::saturating_add)
            }
            Node::Repeat { body, min, max } => {
                let times = max.unwrap_or(*min).max(1);
                body.total(part).saturating_mul(times.into())
            }
        }
    }

    fn ranges(&self) -> u64 {
        match self {
            Node::Class(ranges) => *ranges,
            _ => 1,
        }
    }
}

struct Parser<'a> {
    chars: Peekable<Chars<'a>>,
    depth: usize,
}

impl Parser<'_> {
    /// Parses up to the end or a closing parenthesis.
    fn alternatives(&mut self) -> Result<Node, String> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(format!("nests groups more than {MAX_DEPTH} deep"));
        }
        let mut alternatives = vec![self.sequence()?];
        while self.consume('|') {
            alternatives.push(self.sequence()?);
        }
        self.depth -= 1;
        Ok(match alternatives.len() {
            1 => alternatives.remove(0),
            _ => Node::Alternatives(alternatives),
        })
    }

    fn sequence(&mut self) -> Result<Node, String> {
        let mut nodes = Vec::new();
        while let Some(next) = self.peek() {
            if matches!(next, '|' | ')') {
                break;
            }
            let node = self.atom()?;
            nodes.push(self.repeated(node)?);
        }
        Ok(Node::Sequence(nodes))
    }

    fn atom(&mut self) -> Result<Node, String> {
        match self.next()? {
            '(' => self.group(),
            '[' => Ok(Node::Class(self.class()?)),
            '\\' => self.escape(),
            '^' | '$' => Ok(Node::Anchor),
            '.' => Ok(Node::Class(1)),
            '*' | '+' | '?' => Err("repeats nothing".to_owned()),
            letter => Ok(Node::Char(letter)),
        }
    }

    /// Parses the repetitions that follow a node, each around the previous one.
    fn repeated(&mut self, mut node: Node) -> Result<Node, String> {
        loop {
            let (min, max) = match self.peek() {
                Some('*') => (0, None),
                Some('+') => (1, None),
                Some('?') => (0, Some(1)),
                Some('{') => match self.interval()? {
                    Some(interval) => interval,
                    None => return Ok(node),
                },
                _ => return Ok(node),
            };
            // Lazy and possessive repetitions cost no more. After braces, + is another repetition, and so
            // is ? if the braces contain a single number.
            let braces = self.next()? == '{';
            if braces {
                while self.next()? != '}' {}
            }
            let one_number = braces && max == Some(min);
            let lazy = !one_number && self.consume('?');
            if !braces && !lazy {
                self.consume('+');
            }
            let body = Box::new(node);
            node = Node::Repeat { body, min, max };
        }
    }

    /// The bounds in `{2}`, `{2,}`, `{,2}` or `{1,2}`; anything else in braces is text.
    fn interval(&self) -> Result<Option<(u32, Option<u32>)>, String> {
        let ahead = self.chars.clone().skip(1);
        let inside: String = ahead.take_while(|letter| *letter != '}').take(32).collect();
        if inside.is_empty()
            || inside == ","
            || !inside
                .chars()
                .all(|letter| letter.is_ascii_digit() || letter == ',')
        {
            return Ok(None);
        }
        let (min, max) = match inside.split_once(',') {
            None => (inside.as_str(), Some(inside.as_str())),
            Some((min, "")) => (min, None),
            Some(("", max)) => ("0", Some(max)),
            Some((min, max)) => (min, Some(max)),
        };
        let number = |digits: &str| {
            digits
                .parse::<u32>()
                .map_err(|_| format!("repeats {{{inside}}} times"))
        };
        let (min, max) = (number(min)?, max.map(number).transpose()?);
        if max.is_some_and(|max| max < min) {
            return Err(format!("repeats {{{inside}}} times"));
        }
        Ok(Some((min, max)))
    }

    /// Parses a group after its opening parenthesis.
    fn group(&mut self) -> Result<Node, String> {
        let mut is_lookaround = false;
        if self.consume('?') {
            match self.next()? {
                ':' | '>' => {}
                '=' | '!' => is_lookaround = true,
                '<' if self.consume('=') || self.consume('!') => is_lookaround = true,
                '<' => while self.next()? != '>' {},
                option => {
                    let mut option = option;
                    loop {
                        match option {
                            'i' | 'm' | 's' | '-' => option = self.next()?,
                            ':' => break,
                            // The option applies to the rest of the enclosing group.
                            ')' => return self.alternatives(),
                            _ => return Err(format!("has a group (?{option}…")),
                        }
                    }
                }
            }
        } else if self.peek() == Some('*') {
            return Err("has a group (*…".to_owned());
        }
        let body = self.alternatives()?;
        if !self.consume(')') {
            return Err("has a ( without a )".to_owned());
        }
        Ok(if is_lookaround {
            Node::Lookaround(Box::new(body))
        } else {
            body
        })
    }

    /// Parses a class after its opening bracket; returns approximately the number of its ranges.
    fn class(&mut self) -> Result<u64, String> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(format!("nests classes more than {MAX_DEPTH} deep"));
        }
        self.consume('^');
        if self.peek() == Some(']') {
            return Err("has a class that begins with ]; write \\]".to_owned());
        }
        let mut ranges = 1;
        loop {
            ranges += match self.next()? {
                ']' => break,
                '[' => self.class()?,
                '\\' => self.escape()?.ranges(),
                _ => 1,
            };
        }
        self.depth -= 1;
        Ok(ranges)
    }

    /// Parses an escape after its backslash.
    fn escape(&mut self) -> Result<Node, String> {
        let letter = self.next()?;
        match letter {
            'b' | 'B' | 'A' | 'z' | 'Z' | 'G' => Ok(Node::Anchor),
            'p' | 'P' | 'x' if self.peek() == Some('{') => {
                while self.next()? != '}' {}
                Ok(Node::Class(if letter == 'x' { 1 } else { PROPERTY_RANGES }))
            }
            // Digits that follow are parsed as characters, which makes no difference here.
            'x' | 'u' | '0' => Ok(Node::Class(1)),
            's' | 'S' | 'd' | 'D' | 'w' | 'W' | 'h' | 'H' | 'R' | 'X' | 'N' | 'O' => {
                Ok(Node::Class(PROPERTY_RANGES))
            }
            'n' | 'r' | 't' | 'f' | 'v' | 'a' | 'e' => Ok(Node::Class(1)),
            _ if letter.is_ascii_alphanumeric() => Err(format!("has an escape \\{letter}")),
            _ => Ok(Node::Char(letter)),
        }
    }

    fn peek(&mut self) -> Option<char> {
        self.chars.peek().copied()
    }

    fn next(&mut self) -> Result<char, String> {
        self.chars
            .next()
            .ok_or_else(|| "ends in the middle".to_owned())
    }

    /// Consumes the next character if it is this one; returns whether it was.
    fn consume(&mut self, letter: char) -> bool {
        self.chars.next_if_eq(&letter).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shortest_match(pattern: &str) -> Result<u64, String> {
        read(pattern).map(|pattern| pattern.shortest)
    }

    #[test]
    fn patterns_of_known_models_pass() {
        let rows = [
            // GPT-2 and similar models
            (
                r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
                1,
            ),
            // CLIP
            (
                r"<\|startoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+",
                1,
            ),
            // Llama 3
            (
                r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
                1,
            ),
            // Qwen 2 and 3
            (
                r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
                1,
            ),
            // cl100k with possessive repetitions
            (
                r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s",
                1,
            ),
            // o200k
            (
                r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
                1,
            ),
            // Kimi
            (
                r"[\p{Han}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}",
                1,
            ),
            // DeepSeek
            (r"\p{N}{1,3}", 1),
            (r"[一-龥぀-ゟ゠-ヿ]+", 1),
            (
                r"[!\x22#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
                1,
            ),
            // BLOOM and Falcon
            (r" ?[^(\s|[.,!?…。，、।۔،])]+", 1),
            (r"[0-9][0-9][0-9]", 3),
            // Groups of three digits from the right
            (
                r" ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+|(?=(\d{3})+(?!\d))",
                0,
            ),
            // EXAONE
            (
                r"[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+",
                1,
            ),
            (r"\p{N}{1,3}(?=(?:\p{N}{3})*(?:\P{N}|$))", 1),
            // Chameleon
            (
                r"(<racm3:break>)|(<sentinel:[0-9]+>)|((IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z)|([\t\n]|    |  )|([\p{P}!-/:-@\[-`{-~])",
                1,
            ),
            // SentencePiece
            (r" {2,}", 2),
            (r"\s+", 1),
            (r"\s{2,}|[\n\r\t]", 1),
        ];
        for (pattern, shortest) in rows {
            let given = read(pattern).unwrap();
            assert_eq!(given.shortest, shortest, "{pattern}");
            assert!(given.ranges < 40_000, "{pattern} {}", given.ranges);
        }
    }

    #[test]
    fn the_shortest_match_is_counted() {
        let rows = [
            ("", 0),
            ("a|bc|", 0),
            ("abc|de", 2),
            (r"a{2}b{3,}c{,9}d?", 5),
            (r"a{2}?", 0),
            (r"(?<name>ab)(?>c)(?:d)", 4),
            (r"(?=ab)c(?<!d)", 1),
            (r"\x{41}\n\]", 3),
            (r"[a[b]\]&&c]", 1),
            ("a{x}", 4),
            ("a{", 2),
            ("(?i)a|bc", 1),
        ];
        for (pattern, shortest) in rows {
            assert_eq!(shortest_match(pattern), Ok(shortest), "{pattern}");
        }
    }

    #[test]
    fn the_ranges_of_classes_are_counted() {
        let rows = [
            ("", 0),
            ("ab|.", 3),
            (r"\p{L}", PROPERTY_RANGES),
            (r"a\W{3,}", 1 + 3 * PROPERTY_RANGES),
            (r"(?:[^\p{L}&&[ab]]x{2}){5}", 5 * (PROPERTY_RANGES + 8)),
            (r"(?=\p{L})\x{41}\n", PROPERTY_RANGES + 2),
        ];
        for (pattern, ranges) in rows {
            assert_eq!(read(pattern).unwrap().ranges, ranges, "{pattern}");
        }
    }

    #[test]
    fn an_option_holds_for_the_rest_of_its_group() {
        // The loop comes before both alternatives.
        let reason = shortest_match(r"a*(?i)b*c|d").unwrap_err();
        assert!(reason.contains("backtracks too much"), "{reason}");
        assert_eq!(shortest_match(r"a*|b*c|d"), Ok(0));
    }
}
