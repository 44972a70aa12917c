//! How a person restores a backup with standard tools. Every manifest carries these lines.

#[cfg(test)]
mod tests;

use crate::domain::{
    manifest::{DatabaseFacts, Manifest, StoredObject},
    pattern::Glob,
    recipients::Recipients,
    scope::{Contents, Scope},
    text::{self, shell_word},
};

/// The lines for a backup whose manifest lacks nothing else.
pub fn lines(manifest: &Manifest) -> Vec<String> {
    let lines = match &manifest.database {
        Some(facts) => for_database(facts, manifest),
        None => for_globals(manifest),
    };
    // What is quoted holds nothing that would be changed: this is for the comments.
    lines.iter().map(|line| text::line(line)).collect()
}

/// From the files to what the tool wrote.
fn unpack(objects: &[StoredObject], recipients: &Recipients) -> String {
    let decrypt = if recipients.is_empty() { "" } else { "age -d -i KEYFILE | " };
    format!("cat {} | {decrypt}zstd -dc", quoted(objects))
}

/// Who can decrypt it; nothing where everybody can read it.
fn key_note(recipients: &Recipients) -> Option<String> {
    (!recipients.is_empty()).then(|| {
        format!(
            "# You need age, and in place of KEYFILE a file with the secret key of: {recipients}."
        )
    })
}

fn for_database(facts: &DatabaseFacts, manifest: &Manifest) -> Vec<String> {
    let whole = Scope::default();
    let scope = manifest.selection.as_ref().unwrap_or(&whole);
    let unpack = unpack(&manifest.objects, &manifest.recipients);
    let mut lines = what_it_takes(facts, scope, manifest);
    lines.extend([
        "# 1. Are the files what was stored? Compare with objects[].sha256 in manifest.json."
            .to_owned(),
        format!("sha256sum {}", quoted(&manifest.objects)),
        "# 2. Roles and tablespaces come from the backup of @globals of the same time.".to_owned(),
    ]);
    if scope.contents == Contents::Data {
        lines.extend(into_definitions(&unpack, manifest.is_script()));
        return lines;
    }
    lines.extend([
        "# 3. A new, empty database; never restore over one that is in use.".to_owned(),
        createdb(facts),
        "#    Owner, settings, comment and grants of the database are not restored: whoever may connect to a new one may \
         connect to it. They stand in databases.sql of @globals; docs/RESTORE.md has the way.".to_owned(),
    ]);
    // A schema that is selected is made by the dump, also the one that every new database has.
    let has_public = |globs: &[Glob]| globs.iter().any(|glob| glob.matches("public"));
    let makes_public = has_public(&scope.schemas) && !has_public(&scope.exclude_schemas);
    lines.extend(what_to_make_first(scope, makes_public).map(str::to_owned));
    let is_script = manifest.is_script();
    let own = shell_word(&text::conninfo(&facts.name));
    lines.extend([
        "# 4. Restore, and stop at the first error.".to_owned(),
        format!("{unpack} | {}", restore_into("restored", is_script)),
        "#    On a new server, into the empty database that databases.sql of @globals makes:"
            .to_owned(),
        format!("#    {unpack} | {WRITABLE} {}", restore_into(&own, is_script)),
    ]);
    // Every server has this one already.
    if !is_script && facts.name != "postgres" && !makes_public {
        lines.extend([
            "#    or, without databases.sql, under its own name and with its own locale and settings:".to_owned(),
            format!("#    {unpack} | {WRITABLE} pg_restore --create --exit-on-error --no-password --dbname=postgres"),
        ]);
    }
    lines.extend(analyze(manifest.tool.has_statistics()).map(str::to_owned));
    lines
}

/// The head of the lines: programs, keys and extensions that are needed, and what of the database it is.
fn what_it_takes(facts: &DatabaseFacts, scope: &Scope, manifest: &Manifest) -> Vec<String> {
    let program = if manifest.is_script() { "psql" } else { "pg_restore" };
    let major = manifest.tool.major().unwrap_or_default();
    let mut lines = vec![
        "# Restore with standard tools, in the folder of this file (fetch it first if it lies in a bucket).".to_owned(),
        format!("# You need zstd, and {program} of PostgreSQL {major} or newer."),
    ];
    if manifest.is_script() {
        lines.push("#    An old minor version of psql does not know \\restrict.".to_owned());
    }
    lines.extend(key_note(&manifest.recipients));
    // Every PostgreSQL has plpgsql.
    let extensions = facts.extensions.iter().filter(|extension| extension.name != "plpgsql");
    let names: Vec<_> = extensions.map(|e| format!("{} {}", e.name, e.version)).collect();
    if !names.is_empty() {
        lines.push(format!("# The server needs these extensions: {}.", names.join(", ")));
    }
    if facts.extensions.iter().any(|extension| extension.name == "pg_cron") {
        lines.push(PG_CRON.to_owned());
    }
    if !scope.is_whole() {
        let scope = text::line(&scope.to_string());
        lines.push(format!("# It is not the whole database, but: {scope}."));
    }
    lines
}

/// What a selection needs in the new database before it.
fn what_to_make_first(scope: &Scope, makes_public: bool) -> impl Iterator<Item = &'static str> {
    let of_tables = "#    The schemas of the tables are not in it, nor types and functions that they use, nor what \
                     they are partitions of: make them first.";
    let of_schemas = "#    What is in no schema, or in another, is not in it: make extensions, foreign servers and \
                      whatever else the schemas use first.";
    let drop_public = [
        "#    The backup makes the schema public: drop the one that is there, wherever it is restored.",
        "psql --no-psqlrc --dbname=restored --command='DROP SCHEMA IF EXISTS public'",
    ];
    let of_tables = (!scope.tables.is_empty()).then_some(of_tables);
    let of_schemas = (!scope.schemas.is_empty()).then_some(of_schemas);
    let drop_public = makes_public.then_some(drop_public).into_iter().flatten();
    of_tables.into_iter().chain(of_schemas).chain(drop_public)
}

const fn analyze(has_statistics: bool) -> [&'static str; 2] {
    if has_statistics {
        // Of CREATE STATISTICS, pg_dump 18 has no data; and not every table was analyzed.
        [
            "# 5. The planner's statistics are in it; this makes those that are missing.",
            "vacuumdb --analyze-in-stages --missing-stats-only --dbname=restored",
        ]
    } else {
        ["# 5. Statistics are not in it.", "vacuumdb --analyze-in-stages --dbname=restored"]
    }
}

/// The program that restores, into a database as the shell has it.
fn restore_into(database: &str, is_script: bool) -> String {
    if is_script {
        return format!(
            "psql --no-psqlrc --quiet --set=ON_ERROR_STOP=1 --no-password --dbname={database}"
        );
    }
    format!("pg_restore --exit-on-error --no-password --dbname={database}")
}

/// `CREATE EXTENSION pg_cron` fails in any other database (the first lines of its script).
const PG_CRON: &str = "#    pg_cron can be created in one database of a server alone, the one that the setting cron.database_name \
     names, once shared_preload_libraries has pg_cron: set both to where you restore, and restart the server first.";
/// A database may be read-only by its own settings, which are there before its data.
const WRITABLE: &str = "PGOPTIONS='-c default_transaction_read_only=off'";
/// A dump of data alone does not do it.
const REFRESH: &str = r#"psql --no-psqlrc --tuples-only --no-align --dbname=restored --command="SELECT format('REFRESH MATERIALIZED VIEW %I.%I;', nspname, relname) FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = relnamespace WHERE relkind = 'm' ORDER BY c.oid" | psql --no-psqlrc --set=ON_ERROR_STOP=1 --dbname=restored"#;

fn createdb(facts: &DatabaseFacts) -> String {
    let mut line = format!(
        "createdb --template=template0 --encoding={} --lc-collate={} --lc-ctype={}",
        shell_word(&facts.encoding),
        shell_word(&facts.collate),
        shell_word(&facts.ctype),
    );
    match (facts.locale_provider.as_deref(), &facts.locale) {
        (Some(provider @ ("icu" | "builtin")), Some(locale)) => {
            let locale = shell_word(locale);
            line.push_str(
                &[" --locale-provider=", provider, " --", provider, "-locale=", &locale].concat(),
            );
        }
        // Else it would be the provider of the new cluster's template0.
        (Some("libc"), _) => line.push_str(" --locale-provider=libc"),
        _ => {}
    }
    if let Some(rules) = &facts.icu_rules {
        line.push_str(&[" --icu-rules=", &shell_word(rules)].concat());
    }
    line + " restored"
}

/// Data alone goes where the definitions are. Triggers would fire, and foreign keys fail where the
/// order of tables does not suit them.
fn into_definitions(unpack: &str, is_script: bool) -> [String; 6] {
    let restore = if is_script {
        let psql = restore_into("restored", true);
        format!("{unpack} | PGOPTIONS='--session_replication_role=replica' {psql}")
    } else {
        let options = "--data-only --disable-triggers --exit-on-error --no-password";
        format!("{unpack} | pg_restore {options} --dbname=restored")
    };
    [
        "# 3. It holds data only: `restored` has to have the definitions, and no rows.".to_owned(),
        "# 4. Restore without triggers, which takes a superuser, and stop at the first error."
            .to_owned(),
        restore,
        "#    Materialized views are filled anew.".to_owned(),
        REFRESH.to_owned(),
        "vacuumdb --analyze-in-stages --dbname=restored".to_owned(),
    ]
}

fn for_globals(manifest: &Manifest) -> Vec<String> {
    let recipients = &manifest.recipients;
    let files: Vec<StoredObject> = manifest.files.iter().map(|file| file.object.clone()).collect();
    let mut lines = vec![
        "# Roles, tablespaces and their settings. Read it before you run it: it changes the whole cluster.".to_owned(),
    ];
    lines.extend(key_note(recipients));
    lines.extend([
        format!("sha256sum {}", quoted(&[&*manifest.objects, &files].concat())),
        format!(
            "{} | psql --no-psqlrc --set=ON_ERROR_STOP=0 --dbname=postgres",
            unpack(&manifest.objects, recipients)
        ),
        "# ON_ERROR_STOP=0: roles that exist already are errors that do not matter; read the others.".to_owned(),
    ]);
    let one = |object: &StoredObject| unpack(std::slice::from_ref(object), recipients);
    let (databases, configuration): (Vec<_>, Vec<_>) =
        manifest.files.iter().partition(|file| file.object.name.starts_with("databases.sql"));
    for file in databases {
        lines.extend([
            "# On a new server: every database, empty, with owner, locale, settings and grants.".to_owned(),
            format!("{} | {WRITABLE} psql --no-psqlrc --set=ON_ERROR_STOP=1 --dbname=postgres", one(&file.object)),
            "# Then restore each into the one of its name; the manifest of its backup has the line.".to_owned(),
        ]);
    }
    if !configuration.is_empty() {
        lines.push("# How the server was configured. Compare with the new one before you take anything over: paths and memory are the old machine's.".to_owned());
    }
    for file in configuration {
        if let Some(path) = &file.path {
            lines.push(format!("# {path}:"));
        }
        lines.push(one(&file.object));
    }
    lines
}

fn quoted(objects: &[StoredObject]) -> String {
    objects.iter().map(|object| shell_word(&object.name)).collect::<Vec<_>>().join(" ")
}
