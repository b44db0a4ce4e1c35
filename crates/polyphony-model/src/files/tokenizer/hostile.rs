//! Harmful tokenizers. Each is refused, or works, or fails with an error that names its file. None
//! ends the process, runs for long or takes much memory.

use std::fmt::Write as _;
use std::path::Path;

use serde_json::{Value, json};

use super::Tokenizer;

const PATH: &str = "stranger/tokenizer.json";

/// The expected outcome.
enum Outcome {
    /// An error that names the file and contains these words.
    Refused(&'static str),
    /// It is read. It may fail on a text, with an error that names the file.
    Survived,
}
use Outcome::{Refused, Survived};

/// A tokenizer with a small byte-level model.
fn base() -> Value {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    let json = std::fs::read_to_string(fixtures.join("tiny-chat/tokenizer.json")).unwrap();
    serde_json::from_str(&json).unwrap()
}

/// The base tokenizer with another value at a JSON pointer.
fn with(pointer: &str, value: Value) -> String {
    let mut tokenizer = base();
    *tokenizer.pointer_mut(pointer).unwrap() = value;
    tokenizer.to_string()
}

/// Values for one JSON pointer of the base tokenizer.
#[rustfmt::skip] // a table
fn parts() -> Vec<(&'static str, &'static str, Outcome)> {
    const TEMPLATE: &str = "/post_processor";
    vec![
        // Normalizers.
        ("/normalizer", r#"{"type":"Replace","pattern":{"String":""},"content":"x"}"#, Refused("normalizer.pattern can match the empty text")),
        ("/normalizer", r#"{"type":"Replace","pattern":{"Regex":""},"content":"x"}"#, Refused("normalizer.pattern can match the empty text")),
        ("/normalizer", r#"{"type":"Replace","pattern":{"Regex":"a*"},"content":"x"}"#, Refused("normalizer.pattern can match the empty text")),
        ("/normalizer", r#"{"type":"Replace","pattern":{"Regex":"(?=a)"},"content":"x"}"#, Refused("normalizer.pattern can match the empty text")),
        ("/normalizer", r#"{"type":"Replace","pattern":{"Regex":"(a+)+b"},"content":"x"}"#, Refused("normalizer.pattern repeats a group")),
        ("/normalizer", r#"{"type":"Replace","pattern":{"Regex":"("},"content":"x"}"#, Refused("normalizer.pattern has a (")),
        ("/normalizer", r#"{"type":"Replace","pattern":"a","content":"x"}"#, Refused("neither a String nor a Regex")),
        ("/normalizer", r#"{"type":"Replace","pattern":{"Glob":"*"},"content":"x"}"#, Refused("neither a String nor a Regex")),
        ("/normalizer", r#"{"type":"Anything","pattern":{"String":""},"content":"x"}"#, Refused("normalizer.pattern can match the empty text")),
        ("/normalizer", r#"{"pattern":{"String":""},"content":"x"}"#, Refused("normalizer.pattern can match the empty text")),
        ("/normalizer", r#"{"type":"Replace","content":"x"}"#, Refused("missing field")),
        ("/normalizer", r#"{"type":"Precompiled","precompiled_charsmap":""}"#, Refused("normalizer.precompiled_charsmap is empty")),
        ("/normalizer", r#"{"type":"Precompiled","precompiled_charsmap":"AA=="}"#, Refused("normalizer.precompiled_charsmap is empty")),
        ("/normalizer", r#"{"type":"Precompiled","precompiled_charsmap":"!!!!"}"#, Refused("is not Base64")),
        ("/normalizer", r#"{"type":"Precompiled","precompiled_charsmap":"AAAAA"}"#, Refused("is not Base64")),
        ("/normalizer", r#"{"type":"Precompiled","precompiled_charsmap":"AAAAAA=="}"#, Refused("has an empty trie")),
        ("/normalizer", r#"{"type":"Precompiled","precompiled_charsmap":"BAAAAAAAAAA="}"#, Refused("points outside of itself")),
        ("/normalizer", r#"{"type":"Precompiled","precompiled_charsmap":"/////w=="}"#, Refused("ends inside its trie")),
        ("/normalizer", r#"{"type":"Precompiled","precompiled_charsmap":"AAAAAP8="}"#, Refused("not UTF-8")),
        ("/normalizer", r#"{"type":"Precompiled","precompiled_charsmap":null}"#, Refused("is not a text")),
        ("/normalizer", r#"{"type":"Precompiled","precompiled_charsmap":[0,0,0,0]}"#, Refused("is not a text")),
        ("/normalizer", r#"{"type":"Precompiled"}"#, Refused("panicked")),
        ("/normalizer", r#"{"type":"Sequence","normalizers":{}}"#, Refused("normalizer.normalizers is not an array")),
        ("/normalizer", r#"{"type":"Sequence","normalizers":["NFC"]}"#, Refused("normalizer.normalizers[0] is not an object")),
        ("/normalizer", r#"{"type":"Sequence","normalizers":[{"type":"Precompiled","precompiled_charsmap":""}]}"#, Refused("normalizer.normalizers[0].precompiled_charsmap")),
        ("/normalizer", r#"{"type":"Sequence","normalizers":[]}"#, Survived),
        ("/normalizer", r#"{"type":"Strip","strip_left":true,"strip_right":true}"#, Survived),
        ("/normalizer", r#"{"type":"StripAccents"}"#, Survived),
        ("/normalizer", r#"{"type":"NFKD"}"#, Survived),
        ("/normalizer", r#"{"type":"Nmt"}"#, Survived),
        ("/normalizer", r#"{"type":"BertNormalizer","clean_text":true,"handle_chinese_chars":true,"strip_accents":true,"lowercase":true}"#, Survived),
        ("/normalizer", r#"{"type":"Replace","pattern":{"Regex":"."},"content":""}"#, Survived),
        ("/normalizer", r#"{"type":"Replace","pattern":{"Regex":"[\\s\\S]"},"content":"\u0000"}"#, Survived),
        ("/normalizer", r#"[]"#, Refused("normalizer is not an object")),
        ("/normalizer", r#"["Replace",{"String":""},"x"]"#, Refused("normalizer is not an object")),
        ("/normalizer", r#"7"#, Refused("normalizer is not an object")),
        ("/normalizer", r#"{}"#, Refused(PATH)),
        // Pre-tokenizers.
        ("/pre_tokenizer", r#"{"type":"FixedLength","length":0}"#, Refused("pre_tokenizer.length is 0")),
        ("/pre_tokenizer", r#"{"type":"Sequence","pretokenizers":[{"type":"FixedLength","length":0}]}"#, Refused("pre_tokenizer.pretokenizers[0].length is 0")),
        ("/pre_tokenizer", r#"{"type":"FixedLength","length":-1}"#, Refused(PATH)),
        ("/pre_tokenizer", r#"{"type":"FixedLength","length":18446744073709551615}"#, Survived),
        ("/pre_tokenizer", r#"{"type":"FixedLength","length":1}"#, Survived),
        ("/pre_tokenizer", r#"{"type":"Split","pattern":{"Regex":"(a+)+$"},"behavior":"Isolated","invert":false}"#, Refused("pre_tokenizer.pattern repeats a group")),
        ("/pre_tokenizer", r#"{"type":"Split","pattern":{"Regex":"(.*)*\\x00"},"behavior":"Isolated","invert":false}"#, Refused("repeats a group")),
        ("/pre_tokenizer", r#"{"type":"Split","pattern":{"Regex":"(a|a)+b"},"behavior":"Isolated","invert":false}"#, Refused("repeats a group")),
        ("/pre_tokenizer", r#"{"type":"Split","pattern":{"Regex":"(a|ab)+c"},"behavior":"Isolated","invert":false}"#, Refused("repeats a group")),
        ("/pre_tokenizer", r#"{"type":"Split","pattern":{"Regex":"(?i:a|A)+c"},"behavior":"Isolated","invert":false}"#, Refused("repeats a group")),
        ("/pre_tokenizer", r#"{"type":"Split","pattern":{"Regex":"a{1,9}{1,9}{1,9}b"},"behavior":"Isolated","invert":false}"#, Refused("repeats a group")),
        ("/pre_tokenizer", r#"{"type":"Split","pattern":{"Regex":".*.*\\x00"},"behavior":"Isolated","invert":false}"#, Refused("backtracks too much")),
        ("/pre_tokenizer", r#"{"type":"Split","pattern":{"Regex":"[\\s\\S]*?[\\s\\S]*?[\\s\\S]*?\\x00"},"behavior":"Isolated","invert":false}"#, Refused("backtracks too much")),
        ("/pre_tokenizer", r#"{"type":"Split","pattern":{"Regex":"\\s+\\s+(?!\\s)x"},"behavior":"Isolated","invert":false}"#, Refused("backtracks too much")),
        ("/pre_tokenizer", r#"{"type":"Split","pattern":{"Regex":"(?=.*.*\\x00)a"},"behavior":"Isolated","invert":false}"#, Refused("backtracks too much")),
        ("/pre_tokenizer", r#"{"type":"Split","pattern":{"Regex":".*(?=.*\\x00)"},"behavior":"Isolated","invert":false}"#, Refused("backtracks too much")),
        ("/pre_tokenizer", r#"{"type":"Split","pattern":{"Regex":"a*(?i)a*|b*c"},"behavior":"Isolated","invert":false}"#, Survived),
        ("/pre_tokenizer", r#"{"type":"Split","pattern":{"Regex":".?.?.?.?.?.?.?.?\\x00"},"behavior":"Isolated","invert":false}"#, Refused("combinations")),
        ("/pre_tokenizer", r#"{"type":"Split","pattern":{"Regex":"(?:.?){25}\\x00"},"behavior":"Isolated","invert":false}"#, Refused("combinations")),
        ("/pre_tokenizer", r#"{"type":"Split","pattern":{"Regex":"(.|.|.|.|.)(.|.|.|.|.)(.|.|.|.|.)\\x00"},"behavior":"Isolated","invert":false}"#, Refused("combinations")),
        ("/pre_tokenizer", r#"{"type":"Split","pattern":{"Regex":"((a{99}){99}){99}"},"behavior":"Isolated","invert":false}"#, Refused("stands for more than")),
        ("/pre_tokenizer", r#"{"type":"Split","pattern":{"Regex":"a{99999}"},"behavior":"Isolated","invert":false}"#, Refused("stands for more than")),
        ("/pre_tokenizer", r#"{"type":"Split","pattern":{"Regex":"a{99999999999}"},"behavior":"Isolated","invert":false}"#, Refused("repeats {99999999999} times")),
        ("/pre_tokenizer", r#"{"type":"Split","pattern":{"Regex":"a{3,1}"},"behavior":"Isolated","invert":false}"#, Refused("repeats {3,1} times")),
        ("/pre_tokenizer", r#"{"type":"Split","pattern":{"Regex":"(a)\\1"},"behavior":"Isolated","invert":false}"#, Refused("has an escape \\1")),
        ("/pre_tokenizer", r#"{"type":"Split","pattern":{"Regex":"(?<x>a|b\\g<x>c)"},"behavior":"Isolated","invert":false}"#, Refused("has an escape \\g")),
        ("/pre_tokenizer", r#"{"type":"Split","pattern":{"Regex":"(?<x>a)\\k<x>"},"behavior":"Isolated","invert":false}"#, Refused("has an escape \\k")),
        ("/pre_tokenizer", r#"{"type":"Split","pattern":{"Regex":"a\\Kb"},"behavior":"Isolated","invert":false}"#, Refused("has an escape \\K")),
        ("/pre_tokenizer", r#"{"type":"Split","pattern":{"Regex":"(?~a)"},"behavior":"Isolated","invert":false}"#, Refused("has a group (?~")),
        ("/pre_tokenizer", r#"{"type":"Split","pattern":{"Regex":"(?{x})a"},"behavior":"Isolated","invert":false}"#, Refused("has a group (?{")),
        ("/pre_tokenizer", r#"{"type":"Split","pattern":{"Regex":"(*COUNT)a"},"behavior":"Isolated","invert":false}"#, Refused("has a group (*")),
        ("/pre_tokenizer", r#"{"type":"Split","pattern":{"Regex":"(?(1)a|b)"},"behavior":"Isolated","invert":false}"#, Refused("has a group (?(")),
        ("/pre_tokenizer", r#"{"type":"Split","pattern":{"Regex":"(?x)a # (\n b"},"behavior":"Isolated","invert":false}"#, Refused("has a group (?x")),
        ("/pre_tokenizer", r#"{"type":"Split","pattern":{"Regex":"(?#(a+)+)a"},"behavior":"Isolated","invert":false}"#, Refused("has a group (?#")),
        ("/pre_tokenizer", r#"{"type":"Split","pattern":{"Regex":"a)"},"behavior":"Isolated","invert":false}"#, Refused("has a ) without")),
        ("/pre_tokenizer", r#"{"type":"Split","pattern":{"Regex":"[a"},"behavior":"Isolated","invert":false}"#, Refused("ends in the middle")),
        ("/pre_tokenizer", r#"{"type":"Split","pattern":{"Regex":"[]a]+"},"behavior":"Isolated","invert":false}"#, Refused("begins with ]")),
        ("/pre_tokenizer", r#"{"type":"Split","pattern":{"Regex":"*"},"behavior":"Isolated","invert":false}"#, Refused("repeats nothing")),
        ("/pre_tokenizer", r#"{"type":"Split","pattern":{"Regex":"\\p{Nonsense}"},"behavior":"Isolated","invert":false}"#, Refused("invalid character property")),
        ("/pre_tokenizer", r#"{"type":"Split","pattern":{"Regex":"\\"},"behavior":"Isolated","invert":false}"#, Refused("ends in the middle")),
        ("/pre_tokenizer", r#"{"type":"Split","pattern":{"Regex":""},"behavior":"Isolated","invert":false}"#, Survived),
        ("/pre_tokenizer", r#"{"type":"Split","pattern":{"Regex":"(?=a)"},"behavior":"MergedWithNext","invert":true}"#, Survived),
        ("/pre_tokenizer", r#"{"type":"Split","pattern":{"Regex":"a*"},"behavior":"MergedWithPrevious","invert":false}"#, Survived),
        ("/pre_tokenizer", r#"{"type":"Split","pattern":{"Regex":"[\\s\\S]*\\x00"},"behavior":"Removed","invert":false}"#, Survived),
        ("/pre_tokenizer", r#"{"type":"Split","pattern":{"String":""},"behavior":"Contiguous","invert":false}"#, Survived),
        ("/pre_tokenizer", r#"{"type":"Split","pattern":{"Regex":"a"},"behavior":"Nonsense","invert":false}"#, Refused(PATH)),
        ("/pre_tokenizer", r#"{"type":"Metaspace","replacement":"","prepend_scheme":"always"}"#, Refused(PATH)),
        ("/pre_tokenizer", r#"{"type":"Metaspace","replacement":" ","prepend_scheme":"always","split":true}"#, Survived),
        ("/pre_tokenizer", r#"{"type":"CharDelimiterSplit","delimiter":"\u0000"}"#, Survived),
        ("/pre_tokenizer", r#"{"type":"CharDelimiterSplit","delimiter":"ab"}"#, Refused(PATH)),
        ("/pre_tokenizer", r#"{"type":"UnicodeScripts"}"#, Survived),
        ("/pre_tokenizer", r#"{"type":"Nonsense"}"#, Refused(PATH)),
        // Post-processors.
        (TEMPLATE, r#"{"type":"TemplateProcessing","single":[{"Sequence":{"id":"B","type_id":0}}],"pair":[],"special_tokens":{}}"#, Refused("post_processor.single has the sequence \"B\"")),
        (TEMPLATE, r#"{"type":"TemplateProcessing","single":[],"pair":[],"special_tokens":{}}"#, Refused("post_processor.single has the text 0 times")),
        (TEMPLATE, r#"{"type":"TemplateProcessing","single":[{"Sequence":{"id":"A","type_id":0}},{"Sequence":{"id":"A","type_id":0}}],"pair":[],"special_tokens":{}}"#, Refused("post_processor.single has the text 2 times")),
        (TEMPLATE, r#"{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"x","type_id":0}},{"Sequence":{"id":"A","type_id":0}}],"pair":[],"special_tokens":{}}"#, Refused("the token \"x\", which is not defined")),
        (TEMPLATE, r#"{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"x","type_id":0}},{"Sequence":{"id":"A","type_id":0}}],"pair":[],"special_tokens":{"x":{"id":"x","ids":[1,2,3],"tokens":["x"]}}}"#, Refused("has 3 ids, but 1 texts")),
        (TEMPLATE, r#"{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"x","type_id":0}},{"Sequence":{"id":"A","type_id":0}}],"pair":[],"special_tokens":{"x":{"id":"x","ids":[4294967295],"tokens":["x"]}}}"#, Refused("adds the id 4294967295")),
        (TEMPLATE, r#"{"type":"ByteLevel","single":[{"Sequence":{"id":"B","type_id":0}}],"pair":[],"special_tokens":{}}"#, Refused("post_processor.single has the sequence \"B\"")),
        (TEMPLATE, r#"{"type":"TemplateProcessing","single":"$A","pair":"$B","special_tokens":{}}"#, Refused("post_processor.single is not an array")),
        (TEMPLATE, r#"{"type":"BertProcessing","sep":["x",99999],"cls":["y",0]}"#, Refused("adds the id 99999")),
        (TEMPLATE, r#"{"type":"RobertaProcessing","sep":["x",0],"cls":["y",4294967295],"trim_offsets":true,"add_prefix_space":true}"#, Refused("adds the id 4294967295")),
        (TEMPLATE, r#"{"type":"BertProcessing","sep":["x",0],"cls":["y",1]}"#, Survived),
        (TEMPLATE, r#"{"type":"BertProcessing","sep":[],"cls":[]}"#, Refused(PATH)),
        (TEMPLATE, r#"{"type":"Sequence","processors":[{"type":"BertProcessing","sep":["x",0],"cls":["y",1]},{"type":"BertProcessing","sep":["x",0],"cls":["y",1]}]}"#, Refused("more than once")),
        (TEMPLATE, r#"{"type":"Sequence","processors":[{"type":"TemplateProcessing","single":[{"Sequence":{"id":"A","type_id":0}}],"pair":[],"special_tokens":{}},{"type":"TemplateProcessing","single":[{"Sequence":{"id":"A","type_id":0}}],"pair":[],"special_tokens":{}}]}"#, Refused("more than once")),
        // Decoders.
        ("/decoder", r#"{"type":"Strip","content":"a","start":0,"stop":18446744073709551615}"#, Survived),
        ("/decoder", r#"{"type":"Strip","content":"a","start":18446744073709551615,"stop":0}"#, Survived),
        ("/decoder", r#"{"type":"Strip","content":"\u0000","start":1,"stop":1}"#, Survived),
        ("/decoder", r#"{"type":"Sequence","decoders":[{"type":"Fuse"},{"type":"Strip","content":" ","start":9,"stop":9}]}"#, Survived),
        ("/decoder", r#"{"type":"BPEDecoder","suffix":""}"#, Refused("decoder.suffix is empty")),
        ("/decoder", r#"{"type":"BPEDecoder","suffix":"a"}"#, Survived),
        ("/decoder", r#"{"type":"CTC","pad_token":"","word_delimiter_token":"","cleanup":true}"#, Refused("decoder.word_delimiter_token is empty")),
        ("/decoder", r#"{"type":"CTC","pad_token":"","word_delimiter_token":"a","cleanup":true}"#, Survived),
        ("/decoder", r#"{"type":"WordPiece","prefix":"","cleanup":true}"#, Survived),
        ("/decoder", r#"{"type":"Replace","pattern":{"String":""},"content":"x"}"#, Refused("decoder.pattern can match the empty text")),
        ("/decoder", r#"{"type":"Replace","pattern":{"Regex":"(a?a?)+b"},"content":"x"}"#, Refused("decoder.pattern repeats a group")),
        ("/decoder", r#"{"type":"Replace","pattern":{"String":"a"},"content":"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}"#, Refused("decoder could make a text more than 16 times longer")),
        ("/decoder", r#"{"type":"ByteFallback"}"#, Survived),
        ("/decoder", r#"{"type":"Nonsense"}"#, Refused(PATH)),
        ("/decoder", r#"["BPEDecoder",""]"#, Refused("decoder is not an object")),
        ("/decoder", r#""\u0000""#, Refused("decoder is not an object")),
        ("/decoder", r#"{"type":7}"#, Refused(PATH)),
        // Models.
        ("/model", r#"{"type":"BPE","continuing_subword_prefix":"\u2581\u2581","vocab":{"a":0,"b":1,"ab":2},"merges":[["a","b"]]}"#, Refused("model.merges has the second token \"b\"")),
        ("/model", r#"{"type":"BPE","continuing_subword_prefix":"x","vocab":{"a":0,"\u00e9":1},"merges":["a \u00e9"]}"#, Refused("model.merges has the second token \"é\"")),
        ("/model", r###"{"type":"BPE","continuing_subword_prefix":"##","vocab":{"a":0,"##":1,"##b":2,"ab":3},"merges":[["a","##b"],["a",""]]}"###, Refused("model.merges has the second token \"\"")),
        ("/model", r###"{"type":"BPE","continuing_subword_prefix":"##","vocab":{"a":0,"##b":2,"ab":3},"merges":[["a","##b"]]}"###, Survived),
        ("/model", r#"{"type":"BPE","vocab":{"a":0},"merges":[["a","b"]]}"#, Refused("out of vocabulary")),
        ("/model", r#"{"type":"BPE","vocab":{"a":0},"merges":["a"]}"#, Refused(PATH)),
        ("/model", r#"{"type":"BPE","vocab":{"a":4294967295},"merges":[]}"#, Refused("model.vocab has the id 4294967295")),
        ("/model", r#"{"type":"BPE","vocab":{"a":-1},"merges":[]}"#, Refused(PATH)),
        ("/model", r#"{"type":"BPE","vocab":{"a":0.5},"merges":[]}"#, Refused(PATH)),
        ("/model", r#"{"type":"BPE","vocab":{"a":0,"b":0,"ab":0},"merges":[["a","b"],["b","a"]]}"#, Refused("out of vocabulary")),
        ("/model", r#"{"type":"BPE","vocab":{"a":0,"aa":0,"aaa":0},"merges":[["a","a"],["aa","a"],["a","aa"]]}"#, Survived),
        ("/model", r#"{"type":"BPE","vocab":{},"merges":[]}"#, Survived),
        ("/model", r#"{"type":"BPE","unk_token":"x","vocab":{"a":0},"merges":[]}"#, Survived),
        ("/model", r#"{"type":"BPE","dropout":1.0,"vocab":{"a":0,"aa":1},"merges":[["a","a"]]}"#, Survived),
        ("/model", r#"{"type":"BPE","dropout":7,"vocab":{"a":0},"merges":[]}"#, Refused(PATH)),
        ("/model", r#"{"type":"BPE","byte_fallback":true,"vocab":{"<0x61>":0},"merges":[]}"#, Survived),
        ("/model", r#"{"type":"BPE","vocab":{"a":0}}"#, Refused("vocab/merges")),
        ("/model", r#"{"type":"WordPiece","unk_token":"x","continuing_subword_prefix":"","max_input_chars_per_word":18446744073709551615,"vocab":{"a":0}}"#, Refused("model.max_input_chars_per_word is")),
        ("/model", r#"{"type":"WordPiece","unk_token":"x","continuing_subword_prefix":"","max_input_chars_per_word":100,"vocab":{"a":0}}"#, Survived),
        ("/model", r#"{"type":"WordPiece","unk_token":"x","continuing_subword_prefix":"","max_input_chars_per_word":0,"vocab":{"a":0,"":1,"x":2}}"#, Survived),
        ("/model", r#"{"type":"WordLevel","unk_token":"x","vocab":{}}"#, Survived),
        ("/model", r#"{"type":"WordLevel","unk_token":"x","vocab":{"":0}}"#, Survived),
        ("/model", r#"{"type":"Unigram","unk_id":9,"vocab":[["a",0.0]]}"#, Refused(PATH)),
        ("/model", r#"{"type":"Unigram","unk_id":0,"vocab":[]}"#, Refused(PATH)),
        ("/model", r#"{"type":"Unigram","vocab":[]}"#, Survived),
        ("/model", r#"{"type":"Unigram","unk_id":0,"vocab":[["",0.0],["",-1.0]]}"#, Survived),
        ("/model", r#"{"type":"Unigram","unk_id":0,"vocab":[["a",1.7e308],["aa",-1.7e308],["aaa",1.7e308]]}"#, Survived),
        ("/model", r#"{"type":"Unigram","unk_id":0,"vocab":[["a",1e999]]}"#, Refused(PATH)),
        ("/model", r#"{"type":"Unigram","unk_id":0,"byte_fallback":true,"vocab":[["a",0.0],["<0x61>",0.0]]}"#, Survived),
        ("/model", r#"{"type":"Nonsense","vocab":{},"merges":[]}"#, Refused(PATH)),
        ("/model", r#"{"vocab":7}"#, Refused("a vocabulary")),
        ("/model", r#"null"#, Refused(PATH)),
        // Added tokens.
        ("/added_tokens/0/content", r#""""#, Survived),
        ("/added_tokens/0/content", r#""<|im_end|>""#, Survived),
        ("/added_tokens/0/content", r#"" ""#, Survived),
        ("/added_tokens/0/id", r#"4294967295"#, Survived),
        ("/added_tokens/0", r#"{"id":0,"content":" a","single_word":true,"lstrip":true,"rstrip":true,"normalized":true,"special":false}"#, Survived),
        ("/added_tokens/0", r#"{}"#, Refused("content")),
        ("/added_tokens", r#"{"0":"a"}"#, Refused(PATH)),
        ("/added_tokens", r#"null"#, Refused(PATH)),
        // The rest.
        ("/truncation", r#"{"direction":"Right","max_length":0,"strategy":"LongestFirst","stride":18446744073709551615}"#, Survived),
        ("/padding", r#"{"strategy":{"Fixed":18446744073709551615},"direction":"Left","pad_to_multiple_of":0,"pad_id":0,"pad_type_id":0,"pad_token":""}"#, Survived),
        ("/version", r#""2.0""#, Refused("version")),
    ]
}

/// Tokenizers that are large, deeply nested, or have a key twice.
#[rustfmt::skip] // a table
fn built() -> Vec<(&'static str, String, Outcome)> {
    let text = |part: &str| -> Value { serde_json::from_str(part).unwrap() };
    let sequence = |list: &str, part: &str, times: usize| {
        let parts = vec![text(part); times];
        json!({"type": "Sequence", list: parts})
    };
    // Nested sequences with these numbers of parts, from the outermost to the innermost.
    let tree = |list: &str, part: &str, counts: &[usize]| {
        counts.iter().rev().fold(
            text(part),
            |part, count| json!({"type": "Sequence", list: vec![part; *count]}),
        )
    };
    let nested = |list: &str, times: usize| {
        (0..times).fold(
            json!({"type": "Sequence", list: []}),
            |inner, _| json!({"type": "Sequence", list: [inner]}),
        )
    };
    let words = |count: usize| {
        let entries = (0..count).map(|index| (format!("w{index}"), json!(index)));
        Value::Object(entries.collect())
    };
    let added = |content: String| {
        json!([{"id": 0, "content": content, "special": true, "normalized": false,
                "single_word": false, "lstrip": false, "rstrip": false}])
    };
    let replace = |pattern: &str, content: &str| json!({"type": "Replace", "pattern": {"String": pattern}, "content": content});
    let long_added: Vec<Value> = (0..1000)
        .map(|index| {
            json!({"id": 0, "content": format!("{index}{}", "a".repeat(1000)), "special": false,
                   "normalized": true, "single_word": false, "lstrip": false, "rstrip": false})
        })
        .collect();
    let split = |pattern: String| {
        json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated",
               "invert": false})
    };
    let doubling = json!({"type": "Sequence", "normalizers": vec![replace("a", "aa"); 60]});
    let decoders = json!({"type": "Sequence", "decoders": vec![replace("a", "aa"); 60]});
    let long = json!({"type": "Unigram", "unk_id": 0, "vocab": [["a".repeat(1_000_000), 0.0]]});
    let bushy: Vec<Value> = (0..40_000)
        .map(|index| json!([format!("{index:05}{}", "a".repeat(245)), 0.0]))
        .collect();
    let ladder: Vec<Value> = (1..=256)
        .map(|length| json!(["a".repeat(length), 0.0]))
        .collect();
    let text_of_base = base().to_string();
    let twice = |key: &str, value: &str| {
        let rest = text_of_base.strip_prefix('{').unwrap();
        format!("{{\"{key}\":{value},{rest}")
    };
    let mut deep = "[".repeat(100_000);
    deep.push_str(&"]".repeat(100_000));
    let mut many = String::from("{\"x\":[0");
    for _ in 0..2_500_000 {
        many.write_str(",0").unwrap();
    }
    many.push_str("]}");
    vec![
        ("60 doublings", with("/normalizer", doubling), Refused("times longer")),
        ("60 doublings in the decoder", with("/decoder", decoders), Refused("times longer")),
        ("a long replacement", with("/normalizer", replace("a", &"b".repeat(100_000))), Refused("normalizer.pattern has 100000 bytes")),
        ("a long text in front", with("/normalizer", json!({"type": "Prepend", "prepend": "x".repeat(1_000_000)})), Refused("normalizer.prepend has 1000000 bytes")),
        ("32 texts in front", with("/normalizer", sequence("normalizers", r#"{"type":"Prepend","prepend":"xxxxxxxx"}"#, 32)), Survived),
        ("62 long texts in front", with("/normalizer", sequence("normalizers", r#"{"type":"Prepend","prepend":"xxxxxxxxxxxxxxxx"}"#, 62)), Refused("times longer")),
        ("sequences of sequences of texts in front", with("/normalizer", tree("normalizers", r#"{"type":"Prepend","prepend":"x"}"#, &[20, 40, 60])), Refused("with the sequences before it, has 120 parts")),
        ("sequences of sequences of pre-tokenizers", with("/pre_tokenizer", tree("pretokenizers", r#"{"type":"Whitespace"}"#, &[8, 8])), Refused("with the sequences before it, has")),
        ("sequences of sequences of decoders", with("/decoder", tree("decoders", r#"{"type":"Fuse"}"#, &[8, 8])), Refused("with the sequences before it, has")),
        ("sequences of sequences of post-processors", with("/post_processor", tree("processors", r#"{"type":"ByteLevel","add_prefix_space":true,"trim_offsets":true}"#, &[8, 8])), Refused("with the sequences before it, has")),
        ("64 byte levels", with("/pre_tokenizer", sequence("pretokenizers", r#"{"type":"ByteLevel","add_prefix_space":true,"trim_offsets":true}"#, 64)), Refused("times longer")),
        ("60 byte-level normalizers", with("/normalizer", sequence("normalizers", r#"{"type":"ByteLevel"}"#, 60)), Refused("times longer")),
        ("64 metaspaces", with("/pre_tokenizer", sequence("pretokenizers", r#"{"type":"Metaspace","replacement":"x","prepend_scheme":"always"}"#, 64)), Refused("times longer")),
        ("64 fixed lengths", with("/pre_tokenizer", sequence("pretokenizers", r#"{"type":"FixedLength","length":1}"#, 64)), Survived),
        ("a pattern of many properties", with("/pre_tokenizer", split(r"\p{L}".repeat(3200))), Refused("ranges of characters")),
        ("a property many times", with("/pre_tokenizer", split(r"\p{L}{4000}".to_owned())), Refused("ranges of characters")),
        ("a class of many properties", with("/pre_tokenizer", split(format!("[{}]", r"\p{L}".repeat(3200)))), Refused("ranges of characters")),
        ("a large class many times", with("/pre_tokenizer", split(format!("[{}]{{400}}", "一丁".repeat(2500)))), Refused("ranges of characters")),
        ("many patterns of properties", with("/pre_tokenizer", json!({"type": "Sequence", "pretokenizers": vec![split(r"\p{L}".repeat(32)); 16]})), Refused("pretokenizers[10].pattern, with the patterns before it, has")),
        ("some patterns of properties", with("/pre_tokenizer", json!({"type": "Sequence", "pretokenizers": vec![split(r"\p{L}".repeat(32)); 10]})), Survived),
        ("10,000 normalizers", with("/normalizer", sequence("normalizers", r#"{"type":"NFC"}"#, 10_000)), Refused("normalizer.normalizers has 10000 parts")),
        ("10,000 pre-tokenizers", with("/pre_tokenizer", sequence("pretokenizers", r#"{"type":"Whitespace"}"#, 10_000)), Refused("10000 parts")),
        ("10,000 decoders", with("/decoder", sequence("decoders", r#"{"type":"Fuse"}"#, 10_000)), Refused("10000 parts")),
        ("10,000 post-processors", with("/post_processor", sequence("processors", r#"{"type":"ByteLevel","add_prefix_space":true,"trim_offsets":true}"#, 10_000)), Refused("10000 parts")),
        ("10,000 pieces", with("/post_processor", json!({"type": "TemplateProcessing", "single": vec![json!({"Sequence": {"id": "A", "type_id": 0}}); 10_000], "pair": [], "special_tokens": {}})), Refused("10000 pieces")),
        ("10,000 ids of one token", with("/post_processor", json!({"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "x", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}], "pair": [], "special_tokens": {"x": {"id": "x", "ids": vec![0; 10_000], "tokens": vec!["x"; 10_000]}}})), Refused("10000 ids")),
        ("30 normalizers deep", with("/normalizer", nested("normalizers", 30)), Refused("nests sequences more than")),
        ("30 pre-tokenizers deep", with("/pre_tokenizer", nested("pretokenizers", 30)), Refused("nests sequences more than")),
        ("30 decoders deep", with("/decoder", nested("decoders", 30)), Refused("nests sequences more than")),
        ("30 post-processors deep", with("/post_processor", nested("processors", 30)), Refused("nests sequences more than")),
        ("as deep as allowed", with("/decoder", nested("decoders", 3)), Survived),
        ("100,000 arrays deep in the decoder", twice("decoder", &deep), Refused("recursion limit")),
        ("100,000 arrays deep in the model", twice("model", &format!("{{\"type\":\"BPE\",\"vocab\":{{}},\"x\":{deep}}}")) .replacen("\"model\":{\"type\":\"BPE\",\"dropout\"", "\"y\":{\"dropout\"", 1), Refused(PATH)),
        ("5,000 groups", with("/pre_tokenizer", split("(".repeat(5_000))), Refused("nests groups")),
        ("5,000 classes", with("/pre_tokenizer", split("[".repeat(5_000))), Refused("nests classes")),
        ("a long pattern", with("/pre_tokenizer", split("a".repeat(1_000_000))), Refused("pre_tokenizer.pattern has 1000000 bytes")),
        ("many alternatives", with("/pre_tokenizer", split("a|".repeat(8_000))), Refused("stands for more than")),
        ("a long pattern that is text", with("/pre_tokenizer", json!({"type": "Split", "pattern": {"String": "a".repeat(100_000)}, "behavior": "Isolated", "invert": false})), Refused("pre_tokenizer.pattern has 100000 bytes")),
        ("a deep tree", with("/model", long), Refused("a token of model.vocab has 1000000 bytes")),
        ("a bushy tree", with("/model", json!({"type": "Unigram", "unk_id": 0, "vocab": bushy})), Refused("nodes, but at most")),
        ("all lengths of a token", with("/model", json!({"type": "Unigram", "unk_id": 0, "vocab": ladder})), Survived),
        ("a long token", with("/model", json!({"type": "BPE", "vocab": {"a".repeat(1_000_000): 0}, "merges": []})), Refused("a token of model.vocab has 1000000 bytes")),
        ("a long prefix", with("/model", json!({"type": "WordPiece", "unk_token": "w0", "continuing_subword_prefix": "x".repeat(1_000_000), "max_input_chars_per_word": 100, "vocab": words(10)})), Refused("model.continuing_subword_prefix has 1000000 bytes")),
        ("a long suffix", with("/model", json!({"type": "BPE", "end_of_word_suffix": "x".repeat(1_000_000), "vocab": words(10), "merges": []})), Refused("model.end_of_word_suffix has 1000000 bytes")),
        ("a long unknown token", with("/model", json!({"type": "BPE", "unk_token": "x".repeat(1_000_000), "vocab": words(10), "merges": []})), Refused("model.unk_token has 1000000 bytes")),
        ("too many tokens", with("/model", json!({"type": "WordLevel", "unk_token": "w0", "vocab": words(600_000)})), Refused("model.vocab has 600000 tokens")),
        ("too many merges", with("/model", json!({"type": "BPE", "vocab": words(1), "merges": vec!["w0 w0"; 1_100_000]})), Refused("model.merges has 1100000 merges")),
        ("a long added token", with("/added_tokens", added("x".repeat(1_000_000))), Refused("added_tokens[0].content has 1000000 bytes")),
        ("too many added tokens", with("/added_tokens", Value::Array(vec![added("x".to_owned())[0].clone(); 70_000])), Refused("added_tokens has 70000 tokens")),
        ("added tokens that grow", with("/added_tokens", Value::Array(long_added)).replacen("\"normalizer\":null", &format!("\"normalizer\":{}", replace("a", &"b".repeat(100))), 1), Refused("added_tokens and normalizer")),
        ("too many values", many, Refused("it has more than 2500000 values")),
        ("too many objects", with("/normalizer", json!({"type": "NFC", "x": vec![json!({"a": 0}); 200_000]})), Refused("it has more than 131072 objects")),
        ("too many bytes", format!("{text_of_base}{}", " ".repeat(65 << 20)), Refused("it has more than")),
        ("two decoders", twice("decoder", r#"{"type":"BPEDecoder","suffix":""}"#), Refused("duplicate field `decoder`")),
        ("two models", twice("model", r#"{"type":"BPE","vocab":{},"merges":[]}"#), Refused("duplicate field `model`")),
        ("a length twice", with("/version", json!("1.0")).replacen(r#""individual_digits":true"#, r#""individual_digits":true,"length":3,"length":0"#, 1), Refused("length is 0")),
        ("nothing", String::new(), Refused("EOF")),
        ("an array", "[]".to_owned(), Refused(PATH)),
        ("half of a file", text_of_base[..text_of_base.len() / 2].to_owned(), Refused("EOF")),
        ("a control character in the decoder", text_of_base.replacen("\"ByteLevel\"", "\"Byte\u{1}Level\"", 2), Refused("control character")),
        ("half of a surrogate", twice("version", r#""\ud800""#), Refused("hex escape")),
    ]
}

/// Calls every method of a tokenizer, and returns the errors.
fn exercise(tokenizer: &Tokenizer) -> Vec<crate::error::ModelError> {
    let lines = "The quick brown fox jumps over 13 lazy dogs.\r\n".repeat(40);
    let texts = [
        "",
        "a",
        " ",
        "\0\u{1}\u{7f}",
        "the sky is blue<|im_end|> <think>",
        "  a  a \n\n\t b",
        "é漢字ﷺİ\u{301}👩‍👩‍👧",
        &"a".repeat(2000),
        &" ".repeat(2000),
        &"漢".repeat(700),
        &lines,
    ];
    let mut errors = Vec::new();
    for text in texts {
        for ids in [
            tokenizer.encode(text),
            tokenizer.encode_plain(text),
            tokenizer.encode_more(text),
        ] {
            let decoded = ids.and_then(|ids| tokenizer.decode(&ids));
            errors.extend(decoded.err());
        }
    }
    let ids: Vec<u32> = (0..tokenizer.vocab_size().min(1000) as u32).collect();
    for ids in [&[], &ids[..], &[0; 1000], &[u32::MAX]] {
        errors.extend(tokenizer.decode(ids).err());
    }
    errors.extend(tokenizer.to_json().err());
    errors.extend(tokenizer.check_fits(1 << 23).err());
    tokenizer.control_tokens("{{ '<think>' }}");
    errors
}

fn check(name: &str, json: &str, outcome: &Outcome) {
    let tokenizer = Tokenizer::from_json(json, Path::new(PATH));
    let errors = match (tokenizer, outcome) {
        (Ok(tokenizer), Survived) => exercise(&tokenizer),
        (Ok(_), Refused(words)) => panic!("{name} is read, though it should fail with {words:?}"),
        (Err(error), Refused(words)) => {
            assert!(error.to_string().contains(words), "{name}: {error}");
            vec![error]
        }
        (Err(error), Survived) => panic!("{name}: {error}"),
    };
    for error in errors {
        let message = error.to_string();
        assert!(message.contains(PATH), "{name}: {message}");
        assert!(message.len() < 4096, "{name}: {message}");
    }
}

#[test]
#[cfg(unix)]
fn a_file_without_end_is_not_read() {
    let message = Tokenizer::from_file(Path::new("/dev/zero"))
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("/dev/zero is a device, a pipe or a socket"),
        "{message}"
    );
}

#[test]
fn no_part_does_harm() {
    for (pointer, value, outcome) in parts() {
        let name = format!("{pointer} {value}");
        // The value is inserted as text, since the JSON parser refuses numbers that are too large.
        let json = with(pointer, json!("here")).replacen("\"here\"", value, 1);
        check(&name, &json, &outcome);
    }
}

#[test]
fn no_size_or_depth_does_harm() {
    for (name, json, outcome) in built() {
        check(name, &json, &outcome);
    }
}
