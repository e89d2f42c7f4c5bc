//! Options: what is documented is what the code does, and every option can be set both ways.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

fn file(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// `pub const NAME: T = <number, or numbers joined by << or *>;` of the constants.
fn constants() -> BTreeMap<String, u64> {
    let mut found = BTreeMap::new();
    for line in file("src/constants.rs").lines() {
        let Some(rest) = line.strip_prefix("pub const ") else { continue };
        let Some((name, rest)) = rest.split_once(':') else { continue };
        let Some((_, text)) = rest.split_once('=') else { continue };
        let text = text.split(';').next().unwrap().replace('_', "");
        let number = |text: &str| text.trim().parse::<u64>().ok();
        let value = if let Some((a, b)) = text.split_once("<<") {
            number(a).zip(number(b)).map(|(a, b)| a << b)
        } else {
            text.split('*').map(number).product::<Option<u64>>()
        };
        if let Some(value) = value {
            found.insert(name.to_string(), value);
        }
    }
    found
}

/// A number as the documentation writes it: with a unit where it is a whole number of one, else with commas.
fn as_written(value: u64) -> String {
    for (unit, name) in [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")] {
        if value >= unit && value.is_multiple_of(unit) {
            return format!("{} {name}", value / unit);
        }
    }
    let digits = value.to_string();
    let commas = |(i, digit): (usize, char)| {
        let behind = digits.len() - i - 1;
        if behind > 0 && behind.is_multiple_of(3) { format!("{digit},") } else { digit.to_string() }
    };
    digits.chars().enumerate().map(commas).collect()
}

/// The fields of `impl Default for Options` and what they are set to.
fn defaults() -> BTreeMap<String, String> {
    let text = file("src/options.rs");
    let body = text.split("impl Default for Options").nth(1).unwrap().split("\n}\n").next().unwrap();
    let fields = body.lines().filter_map(|line| line.trim().strip_suffix(',')?.split_once(": "));
    fields.map(|(name, value)| (name.to_string(), value.to_string())).collect()
}

/// The doc comment of every typed setter, as one line.
fn setter_docs() -> BTreeMap<String, String> {
    let mut docs = BTreeMap::new();
    let mut doc = String::new();
    let text = file("src/options.rs");
    let of_the_store = text.split("impl WriteOptions").next().unwrap();
    for line in of_the_store.lines().map(str::trim) {
        if let Some(text) = line.strip_prefix("///") {
            doc.push_str(text);
        } else if let Some(rest) = line.strip_prefix("pub fn ").filter(|rest| rest.contains("(mut self")) {
            docs.insert(rest.split('(').next().unwrap().to_string(), std::mem::take(&mut doc));
        } else {
            doc.clear();
        }
    }
    docs
}

#[test]
fn every_option_has_a_setter_and_a_name() {
    let docs = setter_docs();
    let defaults = defaults();
    for name in flatkv::OPTION_NAMES {
        assert!(docs.contains_key(*name), "{name} has no typed setter");
        assert!(defaults.contains_key(*name), "{name} has no default");
        // Whatever the name takes, it is not unknown.
        let refusal = flatkv::Options::new().set(name, "\u{1}").unwrap_err().to_string();
        assert!(!refusal.contains("unknown option") && refusal.contains(name), "{refusal}");
    }
    for name in docs.keys() {
        assert!(flatkv::OPTION_NAMES.contains(&name.as_str()), "{name} cannot be set by name");
    }
    let refusal = flatkv::Options::new().set("no_such_option", "1").unwrap_err().to_string();
    assert!(flatkv::OPTION_NAMES.iter().all(|name| refusal.contains(name)), "{refusal}");
}

#[test]
fn the_documented_defaults_are_the_defaults() {
    let constants = constants();
    let named = |name: &str| as_written(constants[name]);
    let mut findings = Vec::new();
    for (name, doc) in setter_docs() {
        let default = &defaults()[&name];
        let Some((_, documented)) = doc.split_once("Default: ") else {
            findings.push(format!("{name}: the doc names no default"));
            continue;
        };
        let expected = match (name.as_str(), default.as_str()) {
            ("segment_size_bytes", "None") => vec![
                named("SEGMENT_SIZE_BYTES_PM"),
                named("SEGMENT_SIZE_BYTES_FILE"),
                named("SEGMENT_SIZE_BYTES_QUOTA_MIN"),
                named("SEGMENT_SIZE_BYTES_QUOTA_MAX"),
            ],
            ("head_size_bytes", "None") => vec![named("HEAD_SIZE_BYTES_DEFAULT")],
            ("inline_value_bytes_max", "None") => {
                vec![named("INLINE_VALUE_BYTES_PM"), named("INLINE_VALUE_BYTES_FILE")]
            }
            (_, "None") => vec!["none".to_string()],
            (_, value) if value.contains("::") => vec![format!("`{}`", value.rsplit("::").next().unwrap())],
            ("file_mode", octal) => vec![octal.replace("0o", "0")],
            (_, value) => vec![constants.get(value).map_or(value.to_string(), |number| as_written(*number))],
        };
        for text in expected.iter().filter(|text| !documented.contains(text.as_str())) {
            findings.push(format!("{name}: default {default} is {text}, documented is \"{documented}\""));
        }
    }
    assert!(findings.is_empty(), "{}", findings.join("\n"));
}
