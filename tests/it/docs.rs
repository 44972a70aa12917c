//! The pages that say what the code does, held against the code.

use std::{
    fs,
    path::{Path, PathBuf},
};

use pgkeep::{
    domain::{failure::Class, units::parse_duration},
    jobs,
};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn page(name: &str) -> String {
    fs::read_to_string(Path::new(ROOT).join(name)).unwrap()
}

/// Headings of the second level, each with its first paragraph on one line.
fn sections(page: &str) -> Vec<(String, String)> {
    let parts = page.split("\n## ").skip(1);
    parts
        .map(|part| {
            let (heading, rest) = part.split_once('\n').unwrap();
            let paragraph = rest.trim_start().split("\n\n").next().unwrap().replace('\n', " ");
            (heading.trim().to_owned(), paragraph.trim().to_owned())
        })
        .collect()
}

#[test]
fn every_class_of_errors_has_its_section_and_says_what_it_means() {
    // The runbooks of the alerts stand behind the classes.
    let page = page("docs/ERRORS.md");
    let (classes, _) = page.split_once("\n# Alerts\n").unwrap();
    let documented = sections(classes);
    let classes: Vec<(String, String)> = Class::ALL
        .iter()
        .map(|class| (class.as_str().to_owned(), class.meaning().to_owned()))
        .collect();
    assert_eq!(documented, classes, "docs/ERRORS.md and domain/failure.rs differ");
}

/// What no job says holds for each, and the page has it.
#[test]
fn the_limits_of_time_are_those_of_the_page() {
    let page = page("docs/CONFIG.md");
    let row = page.lines().find(|line| line.starts_with("| `time_limit` |")).unwrap();
    let cell = row.split('|').nth(2).unwrap();
    let (general, own) = cell.split_once(';').unwrap();
    for kind in jobs::KINDS {
        let said = own.split_once(&format!("`{}` `", kind.name)).map_or(general, |(_, own)| own);
        let limit = parse_duration(said.split('"').nth(1).unwrap());
        assert_eq!(limit.unwrap(), kind.time_limit, "{}: {cell}", kind.name);
    }
}

/// Every Rust source below a folder.
fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn every_finding_has_its_section_and_a_name_that_stands_once() {
    let page = page("docs/ERRORS.md");
    let (_, findings) = page.split_once("\n# Findings, by check\n").unwrap();
    let (findings, _) = findings.split_once("\n# Alerts\n").unwrap();
    let headings = findings.lines().filter_map(|line| line.strip_prefix("### "));
    let mut documented: Vec<String> = headings.map(str::to_owned).collect();
    documented.sort();
    let mut files = Vec::new();
    sources(&Path::new(ROOT).join("src"), &mut files);
    let mut made = Vec::new();
    for file in files.iter().filter(|file| !file.display().to_string().contains("tests")) {
        let text = fs::read_to_string(file).unwrap();
        let code = text.split("\n#[cfg(test)]\nmod tests {").next().unwrap();
        let bare = code.split("Finding::new(").skip(1).find(|rest| rest.trim().starts_with('"'));
        assert_eq!(bare, None, "{}: its check is no CheckName", file.display());
        let names = code.split("CheckName(\"").skip(1);
        made.extend(names.map(|rest| rest.split('"').next().unwrap().to_owned()));
    }
    made.sort();
    assert!(made.len() > 60, "where are the checks?");
    let twice = made.windows(2).find(|two| two[0] == two[1]);
    assert_eq!(twice, None, "a check's name stands once");
    assert_eq!(made, documented, "docs/ERRORS.md and the checks differ");
}

/// Lines of code that name the kind in a string of its own: not comments, not tests.
fn named(kind: &str, text: &str) -> Vec<usize> {
    let literal = format!("\"{kind}\"");
    let code = text.split("\n#[cfg(test)]\nmod ").next().unwrap();
    let names = |line: &str| line.split("//").next().is_some_and(|code| code.contains(&literal));
    code.lines().enumerate().filter(|(_, line)| names(line)).map(|(at, _)| at + 1).collect()
}

#[test]
fn no_kind_of_job_is_named_outside_its_file() {
    let src = Path::new(ROOT).join("src");
    let mut found = Vec::new();
    sources(&src, &mut found);
    assert!(found.len() > 100, "where are the sources?");
    for (kind, _) in jobs::metrics() {
        let own = src.join("jobs").join(format!("{}.rs", kind.replace('-', "_")));
        assert!(!named(kind, &fs::read_to_string(&own).unwrap()).is_empty(), "{kind}: {own:?}");
        for path in found.iter().filter(|path| **path != own) {
            let in_tests = path.components().any(|part| part.as_os_str() == "tests");
            if in_tests || path.file_stem().is_some_and(|stem| stem == "tests") {
                continue;
            }
            let lines = named(kind, &fs::read_to_string(path).unwrap());
            assert!(lines.is_empty(), "{}:{lines:?} names the kind {kind:?}", path.display());
        }
        for page_name in ["docs/CONFIG.md", "docs/METRICS.md"] {
            assert!(page(page_name).contains(kind), "{page_name} says nothing of {kind}");
        }
    }
    assert_eq!(named("x", "a(\"x\") // \"x\"\n// \"x\"\n\n#[cfg(test)]\nmod tests { \"x\" }"), [1]);
}

/// Places in a source where a public type, function, constant or trait's method has no doc comment. Fields
/// and variants need none: their names say what they are, and a comment says what a name cannot.
fn undocumented(text: &str) -> Vec<usize> {
    let code: Vec<&str> = text.split("\n#[cfg(test)]\nmod ").next().unwrap().lines().collect();
    let mut found = Vec::new();
    let mut in_trait = false;
    for (at, line) in code.iter().enumerate() {
        in_trait =
            (in_trait && *line != "}") || (line.starts_with("pub trait ") && line.ends_with('{'));
        let bare = line.trim_start();
        let item = match bare.strip_prefix("pub ") {
            Some(item) => item,
            None if in_trait && line.len() - bare.len() == 4 => bare,
            None => continue,
        };
        let mut words =
            item.split(' ').skip_while(|word| ["async", "const", "unsafe"].contains(word));
        let first = if item.starts_with("const ") && !item.starts_with("const fn") {
            "const"
        } else {
            words.next().unwrap_or("")
        };
        if !["fn", "struct", "enum", "trait", "type", "const", "static", "union"].contains(&first) {
            continue;
        }
        // Attributes may stand between, and a macro hands a comment on.
        let mut above = code[..at]
            .iter()
            .rev()
            .map(|line| line.trim())
            .take_while(|line| !line.is_empty() && !line.ends_with(['{', '}', ';']));
        if !above.any(|line| ["///", "#[doc", "$(#["].iter().any(|doc| line.starts_with(doc))) {
            found.push(at + 1);
        }
    }
    found
}

#[test]
fn what_is_public_says_what_it_is() {
    let src = Path::new(ROOT).join("src");
    let mut files = Vec::new();
    sources(&src, &mut files);
    let mut missing = Vec::new();
    for file in files {
        let path = file.strip_prefix(&src).unwrap().display().to_string();
        if path.contains("tests") {
            continue;
        }
        let text = fs::read_to_string(&file).unwrap();
        if !text.starts_with("//!") {
            missing.push(format!("src/{path}: what is in this file?"));
        }
        missing.extend(undocumented(&text).into_iter().map(|line| format!("src/{path}:{line}")));
    }
    assert!(missing.is_empty(), "without a doc comment:\n{}", missing.join("\n"));

    let good = "//! A.\n/// B.\n#[derive(Debug)]\npub struct B {\n    pub c: u32,\n}\n/// D.\npub const D: u8 = 1;\n\
                /// T.\npub trait T {\n    /// F.\n    fn f();\n}\nfn g() {}\npub use x::y;\npub mod z;\n";
    assert_eq!(undocumented(good), Vec::<usize>::new());
    for item in
        ["pub const fn f() {}", "pub async fn f() {}", "pub enum E {}", "pub const D: u8 = 1;"]
    {
        assert_eq!(undocumented(&format!("//! A.\n#[must_use]\n{item}\n")), [3], "{item}");
    }
    assert_eq!(undocumented("/// T.\npub trait T {\n    async fn f();\n}\n"), [3]);
}
