//! How a person restores a backup with standard tools. Every manifest carries these lines.

use crate::domain::manifest::DatabaseFacts;

/// Writes `text` so that a POSIX shell reads it as one word.
pub fn shell_quote(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_./=:,@%+".contains(&b);
    if !text.is_empty() && text.bytes().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// The lines for a backup in `volumes` files: of a database, or of the globals.
pub fn lines(facts: Option<&DatabaseFacts>, volumes: &[String], tool_major: u32) -> Vec<String> {
    match facts {
        Some(facts) => for_database(facts, volumes, tool_major),
        None => for_globals(volumes),
    }
}

fn for_database(facts: &DatabaseFacts, volumes: &[String], tool_major: u32) -> Vec<String> {
    let mut lines = vec![
        "# Restore with standard tools, in the folder of this file (fetch it first if it lies in a bucket).".to_owned(),
        format!("# You need zstd, and pg_restore of PostgreSQL {tool_major} or newer."),
        "# 1. Are the files what was stored? Compare with objects[].sha256 in manifest.json.".to_owned(),
        format!("sha256sum {}", quoted(volumes)),
        "# 2. Roles and tablespaces come from the backup of @globals of the same time.".to_owned(),
        "# 3. A new, empty database; never restore over one that is in use.".to_owned(),
        format!(
            "createdb --template=template0 --encoding={} --lc-collate={} --lc-ctype={} restored",
            shell_quote(&facts.encoding),
            shell_quote(&facts.collate),
            shell_quote(&facts.ctype),
        ),
        "# 4. Restore, and stop at the first error.".to_owned(),
        format!("cat {} | zstd -dc | pg_restore --exit-on-error --no-password --dbname=restored", quoted(volumes)),
        "#    On a new server, under its own name and with its own locale and settings:".to_owned(),
        format!("#    cat {} | zstd -dc | pg_restore --create --exit-on-error --no-password --dbname=postgres", quoted(volumes)),
        "# 5. Statistics are not in it.".to_owned(),
        "vacuumdb --analyze-in-stages --dbname=restored".to_owned(),
    ];
    // Every PostgreSQL has plpgsql.
    let extensions = facts.extensions.iter().filter(|extension| extension.name != "plpgsql");
    let names: Vec<_> = extensions.map(|e| format!("{} {}", e.name, e.version)).collect();
    if !names.is_empty() {
        lines.insert(2, format!("# The server needs these extensions: {}.", names.join(", ")));
    }
    lines
}

fn for_globals(volumes: &[String]) -> Vec<String> {
    vec![
        "# Roles, tablespaces and their settings. Read it before you run it: it changes the whole cluster.".to_owned(),
        format!("sha256sum {}", quoted(volumes)),
        format!(
            "cat {} | zstd -dc | psql --no-psqlrc --set=ON_ERROR_STOP=0 --dbname=postgres",
            quoted(volumes)
        ),
        "# ON_ERROR_STOP=0: roles that exist already are errors that do not matter; read the others.".to_owned(),
    ]
}

fn quoted(names: &[String]) -> String {
    names.iter().map(|name| shell_quote(name)).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_only_where_needed() {
        assert_eq!(shell_quote("a=2Fb.dump.zst"), "a=2Fb.dump.zst");
        assert_eq!(shell_quote("it's"), r"'it'\''s'");
        assert_eq!(shell_quote(""), "''");
        assert_eq!(shell_quote("$(x)"), "'$(x)'");
    }
}
