//! docs/SEMANTICS.md: every item of a list is a promise and names, in backticks, the tests that hold it as
//! `file::function`, or `file::module::function`.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Result, ensure};

use crate::{Source, root, sources};

/// The items of the lists of a Markdown text, each with its continued lines.
fn items(text: &str) -> Vec<String> {
    let mut items: Vec<String> = Vec::new();
    let mut inside = false;
    for line in text.lines() {
        if let Some(item) = line.strip_prefix("- ") {
            items.push(item.to_owned());
            inside = true;
        } else if let (true, Some(more), Some(last)) = (inside, line.strip_prefix("  "), items.last_mut()) {
            last.push(' ');
            last.push_str(more.trim_start());
        } else {
            inside = false;
        }
    }
    items
}

/// What an item names in backticks with `::` in it.
fn tests_named(item: &str) -> Vec<&str> {
    item.split('`')
        .skip(1)
        .step_by(2)
        .filter(|word| word.contains("::") && !word.contains(' '))
        .collect()
}

/// Names of functions that are tests, and of samples that the tools' macro makes tests of.
fn test_functions(source: &Source) -> BTreeSet<&str> {
    let mut functions = BTreeSet::new();
    let mut is_test = false;
    for line in source.text.lines().map(str::trim) {
        if let Some((_, list)) = line
            .split_once("on_samples!(")
            .and_then(|(_, rest)| rest.split_once(": "))
        {
            functions.extend(list.trim_end_matches(");").split(' '));
        }
        if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
            is_test = true;
        } else if let Some((_, rest)) = line.split_once("fn ").filter(|_| is_test) {
            functions.extend(rest.split(['(', '<']).next());
            is_test = false;
        } else if source.text.contains("proptest!") {
            functions.extend(line.strip_prefix("fn ").and_then(|rest| rest.split('(').next()));
        }
    }
    functions
}

/// The modules of the path lead to `source`, by the names of its folders, of itself, or of modules in it.
fn leads_to(source: &Source, modules: &[&str]) -> bool {
    let path = source.path.with_extension("");
    modules.iter().all(|module| {
        path.iter().any(|part| part == *module) || source.text.contains(&format!("mod {module} {{"))
    })
}

#[test]
fn every_promise_names_a_test_that_exists() -> Result<()> {
    let text = fs::read_to_string(root()?.join("docs/SEMANTICS.md"))?;
    let (sources, promises) = (sources()?, items(&text));
    ensure!(promises.len() >= 10, "only {} promises", promises.len());
    let mut broken = Vec::new();
    for promise in &promises {
        let named = tests_named(promise);
        if named.is_empty() {
            broken.push(format!("no test: {promise}"));
        }
        for name in named {
            let mut modules: Vec<_> = name.split("::").collect();
            let function = modules.pop().unwrap_or_default();
            let exists =
                |source: &Source| leads_to(source, &modules) && test_functions(source).contains(function);
            if !sources.iter().any(exists) {
                broken.push(format!("no such test: {name}"));
            }
        }
    }
    ensure!(broken.is_empty(), "docs/SEMANTICS.md\n{}", broken.join("\n"));
    Ok(())
}

#[test]
fn items_and_names_are_found() {
    let text = "# T\n- one `a::b`\n  and `c::d::e`\n\nno item `x::y`\n- two `not a name`\n";
    let items = items(text);
    assert_eq!(items, ["one `a::b` and `c::d::e`", "two `not a name`"]);
    assert_eq!(tests_named(&items[0]), ["a::b", "c::d::e"]);
    assert!(tests_named(&items[1]).is_empty());
}

#[test]
fn only_tests_count() {
    let text = "#[test]\nfn yes() {}\nfn no() {}\ncrate::on_samples!(super::x: huge many_extents);\n";
    let source = Source {
        path: "tests/tests/fuse/seek.rs".into(),
        text: text.to_owned(),
    };
    assert_eq!(test_functions(&source), ["yes", "huge", "many_extents"].into());
    assert!(leads_to(&source, &["fuse", "seek"]) && !leads_to(&source, &["tools"]));
}
