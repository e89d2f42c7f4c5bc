//! `docs/FORMAT.md` says what the code does: offsets, constants, and that tables leave no byte out.

use std::collections::BTreeMap;
use std::path::Path;

fn read(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

fn cells(row: &str) -> Vec<&str> {
    row.trim().trim_matches('|').split('|').map(|cell| cell.trim().trim_matches('`')).collect()
}

fn number(text: &str) -> Option<u64> {
    let text = text.trim().replace('_', "");
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

/// `pub const NAME: type = value;` lines, products and shifts of numbers and earlier constants evaluated.
fn constants(source: &str, values: &mut BTreeMap<String, u64>) {
    for line in source.lines() {
        let Some((name, rest)) = line.trim().strip_prefix("pub const ").and_then(|rest| rest.split_once(':'))
        else {
            continue;
        };
        let Some((_, value)) = rest.split_once('=') else { continue };
        let value =
            value.split(';').next().unwrap().replace(['(', ')'], "").replace("u32::MAX as u64", "4294967295");
        let term = |text: &str| number(text).or_else(|| values.get(text.trim()).copied());
        let shifted = |text: &str| match text.split_once("<<") {
            Some((base, shift)) => Some(term(base)? << term(shift)?),
            None => term(text),
        };
        if let Some(product) = value.split('*').map(shifted).try_fold(1, |product, x| Some(product * x?)) {
            values.insert(name.to_string(), product);
        }
    }
}

#[test]
fn constants_in_the_document_are_those_in_the_code() {
    let mut values = BTreeMap::new();
    constants(&read("src/constants.rs"), &mut values);
    constants(&read("src/format/mod.rs"), &mut values);
    let document = read("docs/FORMAT.md");
    let mut compared = 0;
    for row in document.lines().filter(|line| line.starts_with("| `") && line.contains("_")) {
        if let [name, value, ..] = cells(row)[..]
            && let Some(value) = number(value)
        {
            assert_eq!(values.get(name), Some(&value), "{row}");
            compared += 1;
        }
    }
    assert!(compared >= 20, "only {compared} constants were found in the document");
    assert!(document.contains(&format!("`FORMAT_VERSION` = {}", values["FORMAT_VERSION"])));
}

#[test]
fn tables_have_every_offset_of_the_code_and_no_gap() {
    let document = read("docs/FORMAT.md");
    let mut tables = 0;
    for part in document.split("<!-- layout: ").skip(1) {
        let (head, body) = part.split_once(" -->").unwrap();
        let (file, length) = head.split_once(' ').unwrap();
        let mut next = 0;
        let mut named = BTreeMap::new();
        for row in body.trim_start().lines().take_while(|line| line.starts_with('|')).skip(2) {
            let cells = cells(row);
            let (offset, len) = (number(cells[0]).unwrap(), number(cells[1]).unwrap());
            assert_eq!(offset, next, "{head}: a gap or an overlap before {row}");
            next = offset + len;
            if cells[2] != "-" {
                named.insert(cells[2].to_string(), offset);
            }
        }
        assert_eq!(next, length.parse().unwrap(), "{head}: the table does not end where the structure does");
        if file != "-" {
            let source = read(file);
            let block = source.split("mod at {").nth(1).unwrap().split("\n}").next().unwrap();
            let mut offsets = BTreeMap::new();
            constants(block, &mut offsets);
            assert_eq!(named, offsets, "{head}");
        }
        tables += 1;
    }
    assert_eq!(tables, 10, "tables with a layout line");
}

#[test]
fn state_codes_and_frame_kinds_in_the_document_are_those_in_the_code() {
    let document = read("docs/FORMAT.md");
    for (file, item) in
        [("src/format/segment.rs", "enum SegmentState {"), ("src/format/frame.rs", "enum FrameKind {")]
    {
        let source = read(file);
        let block = source.split(item).nth(1).unwrap().split("\n}").next().unwrap();
        for line in block.lines().filter(|line| line.contains(" = ")) {
            let (name, value) = line.trim().trim_end_matches(',').split_once(" = ").unwrap();
            let found = document
                .lines()
                .filter(|line| line.starts_with('|'))
                .map(cells)
                .any(|cells| cells.len() >= 2 && cells[1] == name && number(cells[0]) == number(value));
            assert!(found, "{name} = {value} of {file} is not in the document");
        }
    }
}
