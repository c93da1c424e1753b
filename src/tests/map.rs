//! docs/architecture.md names what is there: each crate and why, each file with unsafe code, and files that exist. And links
//! between the pages lead somewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

const PAGE: &str = include_str!("../../docs/architecture.md");
const CONCURRENCY: &str = include_str!("../../docs/concurrency.md");

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The part of a page under a heading, as far as the next.
fn section<'a>(page: &'a str, heading: &str) -> &'a str {
    let after = page.split_once(&format!("\n## {heading}\n")).unwrap_or_else(|| panic!("no heading {heading}")).1;
    after.split("\n## ").next().expect("a first part")
}

/// What stands between backticks.
fn names(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The crates that a Cargo.toml names under these headings; not those of this repository.
fn dependencies(manifest: &str, headings: &[&str]) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut is_wanted = false;
    for line in manifest.lines() {
        if line.starts_with('[') {
            is_wanted = headings.contains(&line);
        } else if let Some((name, what)) = line.split_once(" = ").filter(|_| is_wanted)
            && !what.contains("path = ")
        {
            found.insert(name.to_owned());
        }
    }
    found
}

/// Files below a folder, but for what was built.
fn find(folder: &Path, is_wanted: &dyn Fn(&Path) -> bool, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry of it").path();
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            find(&path, is_wanted, found);
        } else if is_wanted(&path) {
            found.push(path);
        }
    }
}

#[test]
fn every_crate_is_named_with_its_reason_and_none_that_is_gone() {
    const OWN: &str = "[dependencies]";
    let section = section(PAGE, "Crates, and why each");
    let (table, others) = section.rsplit_once(" |\n").expect("a table");
    let rows = table.lines().filter(|line| line.starts_with("| `"));
    let of_library: BTreeSet<_> =
        rows.flat_map(|row| names(row.split(" | ").next().expect("a first cell"))).map(str::to_owned).collect();
    let manifest = fs::read_to_string(root().join("Cargo.toml")).expect("a manifest");
    assert_eq!(of_library, dependencies(&manifest, &[OWN]));

    let mut manifests = Vec::new();
    find(root(), &|path| path.ends_with("Cargo.toml"), &mut manifests);
    assert!(manifests.len() >= 7, "{manifests:?}");
    let all = manifests
        .iter()
        .flat_map(|path| dependencies(&fs::read_to_string(path).expect("a manifest"), &[OWN, "[dev-dependencies]"]));
    let of_others: BTreeSet<_> = names(others).filter(|name| !name.contains('/')).map(str::to_owned).collect();
    assert_eq!(of_others, all.collect::<BTreeSet<_>>().difference(&of_library).cloned().collect());
}

/// Files as the page names them: a name without a folder lies in that of the one before; braces stand for several.
fn files_named(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut folder = String::new();
    for name in names(text).filter(|name| name.ends_with(".rs") && !name.contains('*')) {
        let (path, file) = match name.rsplit_once('/') {
            Some((path, file)) => (path.to_owned(), file),
            None => (folder, name),
        };
        let files: Vec<String> = match file.strip_prefix('{').and_then(|file| file.strip_suffix("}.rs")) {
            Some(several) => several.split(',').map(|file| format!("{path}/{file}.rs")).collect(),
            None => vec![format!("{path}/{file}")],
        };
        found.extend(files);
        folder = path;
    }
    found
}

#[test]
fn unsafe_code_is_where_the_page_says() {
    let named: BTreeSet<String> = files_named(section(PAGE, "Unsafe code")).into_iter().collect();
    let mut found = Vec::new();
    for layer in ["engine", "rings", "shared", "adapters"] {
        let allows = |path: &Path| {
            path.extension().is_some_and(|ending| ending == "rs")
                && fs::read_to_string(path).expect("a source").contains("allow(unsafe_code)")
        };
        find(&root().join("src").join(layer), &allows, &mut found);
    }
    let source =
        |path: PathBuf| path.strip_prefix(root().join("src")).expect("a source").to_string_lossy().into_owned();
    assert_eq!(found.into_iter().map(source).collect::<BTreeSet<_>>(), named);
}

#[test]
fn files_that_the_pages_name_are_there() {
    let mut missing = BTreeMap::new();
    for (page, text) in [("architecture.md", PAGE), ("concurrency.md", CONCURRENCY)] {
        let files = files_named(text);
        assert!(files.len() > 10, "{page}: {files:?}");
        for file in files {
            if !root().join("src").join(&file).exists() && !root().join(&file).exists() {
                missing.insert(file, page);
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
}

/// What links inside of a page may lead to: its headings, as they are made into anchors.
fn anchors(page: &str) -> BTreeSet<String> {
    let mut is_code = false;
    let headings = page.lines().filter_map(|line| {
        is_code ^= line.starts_with("```");
        line.trim_start_matches('#').strip_prefix(' ').filter(|_| line.starts_with('#') && !is_code)
    });
    let of_anchor = |letter: char| match letter {
        ' ' => Some('-'),
        _ => (letter.is_alphanumeric() || ['-', '_'].contains(&letter)).then(|| letter.to_ascii_lowercase()),
    };
    headings.map(|heading| heading.chars().filter_map(of_anchor).collect()).collect()
}

/// Where the links of a page lead, but for those to other sites.
fn links(page: &str) -> impl Iterator<Item = &str> {
    let targets = page.split("](").skip(1).filter_map(|after| after.split_once(')'));
    targets.map(|(target, _)| target).filter(|target| !target.contains("://") && !target.contains(' '))
}

#[test]
fn links_between_the_pages_lead_somewhere() {
    let mut pages = vec![root().join("README.md")];
    find(&root().join("docs"), &|path| path.extension().is_some_and(|ending| ending == "md"), &mut pages);
    assert!(pages.len() >= 16, "{pages:?}");
    let mut broken = Vec::new();
    for page in &pages {
        let text = fs::read_to_string(page).expect("a page");
        for link in links(&text) {
            let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = if path.is_empty() { page.clone() } else { page.with_file_name(path) };
            let is_page = path.is_empty() || path.ends_with(".md");
            let leads = target.exists()
                && (anchor.is_empty()
                    || !is_page
                    || anchors(&fs::read_to_string(&target).expect("a page")).contains(anchor));
            if !leads {
                broken.push(format!("{}: {link}", page.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn links_and_anchors_are_read_as_the_pages_write_them() {
    let page = "# A `b_c`, and *d*\n[x](e.md#f)[y](#g) ![](h.svg)\n```sh\n# i\n```\n[z](https://j.org)\n## K-l: m";
    assert_eq!(anchors(page).into_iter().collect::<Vec<_>>(), ["a-b_c-and-d", "k-l-m"]);
    assert_eq!(links(page).collect::<Vec<_>>(), ["e.md#f", "#g", "h.svg"]);
}

#[test]
fn names_are_read_as_the_pages_write_them() {
    assert_eq!(
        files_named("`a/b.rs`, `c.rs`, `d`, and `e/{f,g}.rs`; `h.rs`"),
        ["a/b.rs", "a/c.rs", "e/f.rs", "e/g.rs", "e/h.rs"]
    );
    let manifest =
        "[package]\nname = \"x\"\n[dependencies]\na = \"1\"\nb = { path = \"..\" }\n[dev-dependencies]\nc = \"1\"\n";
    let of = |headings| dependencies(manifest, headings).into_iter().collect::<Vec<_>>();
    assert_eq!(of(&["[dependencies]"]), ["a"]);
    assert_eq!(of(&["[dependencies]", "[dev-dependencies]"]), ["a", "c"]);
}
