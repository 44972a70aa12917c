//! The order of the layers, as src/lib.rs states it: a layer uses only what stands to its left.
//!
//! It reads paths that start with `crate::`, and those that climb out of a layer with `super::`,
//! in the code of src/: not in comments, strings, and not in modules named `tests`.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// Each layer's rank; layers of one rank do not use one another.
type Order = BTreeMap<String, usize>;

/// Reads `a` ← `b` ← `c`, `d` ← `e` from the head of src/lib.rs.
fn order(lib: &str) -> Order {
    let head: Vec<&str> = lib
        .lines()
        .filter_map(|line| line.strip_prefix("//! "))
        .skip_while(|line| !line.contains('←'))
        .take_while(|line| line.contains('←'))
        .collect();
    let head = head.join(" ");
    let mut order = Order::new();
    for (rank, group) in head.split('←').enumerate() {
        for name in group.split('`').skip(1).step_by(2) {
            assert!(order.insert(name.to_owned(), rank).is_none(), "{name} stands twice");
        }
    }
    order
}

/// The code without comments, strings and modules of tests; line breaks stay.
fn code_of(text: &str) -> String {
    let mut code = String::new();
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        let rest = &text[at..];
        let skipped = skip_non_code(rest);
        if skipped == 0 {
            let char = rest.chars().next().unwrap();
            code.push(char);
            at += char.len_utf8();
        } else {
            code.extend(rest[..skipped].chars().filter(|&c| c == '\n'));
            at += skipped;
        }
    }
    without_tests(&code)
}

/// Length of the comment, string or character literal at the start of `text`; 0 where there is
/// none.
fn skip_non_code(text: &str) -> usize {
    if text.starts_with("//") {
        return text.find('\n').unwrap_or(text.len());
    }
    if text.starts_with("/*") {
        let mut depth = 0;
        for (at, _) in text.char_indices() {
            if text[at..].starts_with("/*") {
                depth += 1;
            } else if text[..at].ends_with("*/") && at > 3 {
                depth -= 1;
                if depth == 0 {
                    return at;
                }
            }
        }
        return text.len();
    }
    let hashes = text[1..].bytes().take_while(|&b| b == b'#').count();
    if text.starts_with('r') && text[1 + hashes..].starts_with('"') {
        let end = format!("\"{}", "#".repeat(hashes));
        let body = 2 + hashes;
        return text[body..].find(&end).map_or(text.len(), |at| body + at + end.len());
    }
    if text.starts_with('"') {
        return closing(text, '"');
    }
    // `'x'` and `'\n'`, but no lifetime.
    let mut chars = text.chars();
    if chars.next() == Some('\'') {
        let escaped = chars.next() == Some('\\');
        if escaped || chars.next() == Some('\'') {
            return closing(text, '\'');
        }
    }
    0
}

/// Length of a literal up to the closing `quote`.
fn closing(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, char) in text.char_indices().skip(1) {
        match char {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return at + c.len_utf8(),
            _ => {}
        }
    }
    text.len()
}

/// The code without `mod tests { … }`.
fn without_tests(code: &str) -> String {
    let Some(start) = code.find("mod tests {") else { return code.to_owned() };
    let mut depth = 0_usize;
    for (at, char) in code[start..].char_indices() {
        match char {
            '{' => depth += 1,
            '}' if depth == 1 => {
                return without_tests(&format!("{}{}", &code[..start], &code[start + at + 1..]));
            }
            '}' => depth -= 1,
            _ => {}
        }
    }
    code[..start].to_owned()
}

/// The names that follow `crate::` (or enough `super::` to reach the root from a module at
/// `depth`), with their lines; those in braces one by one.
fn used(code: &str, depth: usize) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let root = "super::".repeat(depth);
    for start in [Some("crate::"), (depth > 0).then_some(root.as_str())].into_iter().flatten() {
        for (at, _) in code.match_indices(start) {
            let before = code[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
                continue;
            }
            let line = code[..at].lines().count().max(1);
            let rest = &code[at + start.len()..];
            found.extend(first_names(rest).into_iter().map(|name| (line, name)));
        }
    }
    found
}

/// `a` of `a::b`; `a` and `c` of `{a::b, c::{d, e}}`.
fn first_names(path: &str) -> Vec<String> {
    let name = |text: &str| -> String {
        text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
    };
    let Some(group) = path.strip_prefix('{') else { return vec![name(path)] };
    let mut names = Vec::new();
    let (mut depth, mut from) = (0_usize, 0);
    for (at, char) in group.char_indices() {
        match char {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                names.push(name(&group[from..at]));
                from = at + 1;
                if char == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

/// What breaks the order in one file (its path relative to src/).
fn violations(order: &Order, path: &Path, text: &str) -> Vec<String> {
    let mut module: Vec<String> =
        path.with_extension("").iter().map(|part| part.to_string_lossy().into_owned()).collect();
    if module.last().is_some_and(|last| last == "mod") {
        module.pop();
    }
    if module.iter().any(|name| name == "tests") {
        return Vec::new();
    }
    let Some(own) = order.get(&module[0]) else {
        return vec![format!("{}: src/lib.rs gives {} no place", path.display(), module[0])];
    };
    let may_use = |name: &str| name == module[0] || order.get(name).is_some_and(|rank| rank < own);
    used(&code_of(text), module.len())
        .into_iter()
        .filter(|(_, name)| !may_use(name))
        .map(|(line, name)| format!("src/{}:{line}: {} uses {name}", path.display(), module[0]))
        .collect()
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

#[test]
fn every_layer_uses_only_what_stands_to_its_left() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let order = order(&fs::read_to_string(src.join("lib.rs")).unwrap());
    assert!(order.len() > 10, "the order of layers is missing from src/lib.rs: {order:?}");

    let sources = sources(&src);
    assert!(sources.len() > 10, "where are the sources? {sources:?}");
    let mut wrong = Vec::new();
    for path in sources {
        let relative = path.strip_prefix(&src).unwrap();
        if relative != Path::new("lib.rs") {
            wrong.extend(violations(&order, relative, &fs::read_to_string(&path).unwrap()));
        }
    }
    assert!(wrong.is_empty(), "the order of layers is broken:\n{}", wrong.join("\n"));
}

#[test]
fn a_use_to_the_right_is_found_wherever_it_hides() {
    let order = order("//! x\n//!\n//! `a` ← `b`, `c`\n//! ← `d` ← `main`.\n//! more");
    assert_eq!(order.len(), 5);
    let check = |path: &str, text: &str| violations(&order, Path::new(path), text);

    let fine = "use crate::{a::x, b::{c, d}};\nuse super::super::a;\n// crate::d\n\
                /* crate::d /* */ crate::d */ const S: &str = \"crate::d \\\" crate::d\";\n\
                const R: &str = r#\"crate::d \" \"#; fn f<'x>(c: char) -> bool { c == '\"' }\n\
                pub(crate) mod y; use super::d;\n\
                mod tests { use crate::d; fn f() { {} } }\n";
    assert_eq!(check("b/deep.rs", fine), Vec::<String>::new());

    for (path, text, line) in [
        ("a/mod.rs", "\nuse crate::b::x;", 2),
        ("a.rs", "use super::b;", 1),
        ("b/mod.rs", "use crate::c;", 1),
        ("c/x/y.rs", "use super::super::super::d;", 1),
        ("b/x.rs", "use crate::{\n    a::{x, y},\n    d::z,\n};", 1),
        ("b/x.rs", "fn f() { let q = '\\''; crate::d::g() }", 1),
        ("b/x.rs", "mod tests { fn f() {} }\nfn g(_: &crate::main::T) {}", 2),
        ("b/x.rs", "fn f() { /* */ g(\"\\\\\"); crate::nowhere::g() }", 1),
    ] {
        let found = check(path, text);
        assert_eq!(found.len(), 1, "{path}: {text}: {found:?}");
        assert!(found[0].contains(&format!("{path}:{line}: ")), "{found:?}");
    }
    assert_eq!(check("nowhere/x.rs", "").len(), 1);
    assert_eq!(check("a/tests.rs", "use crate::d;"), Vec::<String>::new());
}
