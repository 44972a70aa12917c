//! The systemd unit that the daemon runs under, as far as it decides which folders the daemon sees.
//!
//! A program that a person starts by hand runs outside of the unit and sees more: only systemd's own
//! word tells what the daemon may write. What can still go wrong: security modules and ACLs are not
//! looked at.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use tokio_util::sync::CancellationToken;

use super::process::{Spec, run_captured};

/// The unit that the packages and the README install.
const NAME: &str = "pgkeep.service";
/// What `ProtectHome=` hides: systemd.exec(5).
pub const HOMES: [&str; 3] = ["/home", "/root", "/run/user"];
/// What `ProtectSystem=strict` leaves writable: systemd.exec(5).
const API_FOLDERS: [&str; 3] = ["/dev", "/proc", "/sys"];
/// systemctl answers from memory.
const ANSWER: Duration = Duration::from_secs(5);
/// Some properties are lists; a drop-in is no book.
const ANSWER_MAX: usize = 64 << 10;
/// The properties that matter, as `systemctl show` names them.
const PROPERTIES: &str = "LoadState,ExecStart,ProtectSystem,ProtectHome,PrivateTmp,ReadWritePaths,BindPaths,\
                          StateDirectory,CacheDirectory,LogsDirectory,RuntimeDirectory";

/// What a unit does to the file system that its daemon sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    pub name: String,
    /// `ProtectSystem=strict`: only what is named may be written.
    strict: bool,
    /// `ProtectHome=`, where it hides or closes the folders of people.
    home: Option<String>,
    /// Folders that the daemon may write to.
    writable: Vec<PathBuf>,
    /// Folders that are bound into what the daemon sees, to be written.
    bound: Vec<PathBuf>,
}

/// Why a daemon of the unit cannot write to a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Barrier {
    /// It lies below a folder that this value of `ProtectHome=` hides or closes.
    Home(String),
    /// It lies in no folder that the unit lets it write to.
    ReadOnly,
}

impl Unit {
    /// The unit of the daemon that reads this configuration; none where there is no systemd, or no
    /// such unit.
    pub async fn of(config: &Path) -> Option<Self> {
        let path = std::env::var_os("PATH")?;
        let program = std::env::split_paths(&path).map(|folder| folder.join("systemctl"));
        let program =
            program.into_iter().find(|program| program.is_absolute() && program.exists())?;
        let spec = Spec::new(program).args(["show", NAME, "--property", PROPERTIES]);
        let exit = run_captured(spec, ANSWER_MAX, ANSWER, &CancellationToken::new()).await.ok()?;
        if !exit.success() || exit.stdout_left_out > 0 {
            return None;
        }
        Self::parse(&String::from_utf8_lossy(&exit.stdout), config)
    }

    /// Reads what `systemctl show` prints.
    fn parse(shown: &str, config: &Path) -> Option<Self> {
        let value = |key: &str| {
            shown.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('=')).unwrap_or("")
        };
        let ours = words(value("ExecStart")).iter().any(|word| Path::new(word) == config);
        if value("LoadState") != "loaded" || !ours {
            return None;
        }
        let mut writable = Vec::new();
        for (key, below) in [
            ("StateDirectory", "/var/lib"),
            ("CacheDirectory", "/var/cache"),
            ("LogsDirectory", "/var/log"),
            ("RuntimeDirectory", "/run"),
        ] {
            writable.extend(words(value(key)).iter().map(|name| Path::new(below).join(name)));
        }
        let set = |key: &str| Some(value(key)).filter(|it| !["", "no"].contains(it));
        if set("PrivateTmp").is_some() {
            writable.extend(["/tmp", "/var/tmp"].map(PathBuf::from));
        }
        let named = words(value("ReadWritePaths"));
        writable
            .extend(named.iter().map(|path| PathBuf::from(path.trim_start_matches(['-', '+']))));
        let mut bound = Vec::new();
        // SOURCE[:DESTINATION[:OPTIONS]]: the daemon sees the destination.
        for entry in words(value("BindPaths")) {
            let mut parts = entry.trim_start_matches('-').split(':');
            let source = parts.next().unwrap_or_default();
            bound.push(PathBuf::from(parts.next().unwrap_or(source)));
        }
        let home = set("ProtectHome");
        let strict = value("ProtectSystem") == "strict";
        Some(Self { name: NAME.to_owned(), strict, home: home.map(str::to_owned), writable, bound })
    }

    /// What keeps a daemon of this unit from writing to a folder, if anything does.
    pub fn barrier(&self, folder: &Path) -> Option<Barrier> {
        let below = |roots: &[&str]| roots.iter().any(|root| folder.starts_with(root));
        let among = |roots: &[PathBuf]| roots.iter().any(|root| folder.starts_with(root));
        if let (Some(home), true) = (&self.home, below(&HOMES)) {
            let open = match home.as_str() {
                "tmpfs" => among(&self.bound),
                "read-only" => among(&self.bound) || among(&self.writable),
                // Seen with 252: neither opens anything below what is made inaccessible.
                _ => false,
            };
            return (!open).then(|| Barrier::Home(home.clone()));
        }
        let named = among(&self.writable) || among(&self.bound);
        (self.strict && !named && !below(&API_FOLDERS)).then_some(Barrier::ReadOnly)
    }
}

/// The words of a list as systemctl prints it: one with a space stands in double quotes (seen with 252).
fn words(list: &str) -> Vec<String> {
    let (mut words, mut word, mut quoted) = (Vec::new(), String::new(), false);
    let mut chars = list.chars();
    while let Some(c) = chars.next() {
        match c {
            '"' => quoted = !quoted,
            '\\' if quoted => word.extend(chars.next()),
            ' ' if !quoted => words.push(std::mem::take(&mut word)),
            _ => word.push(c),
        }
    }
    words.push(word);
    words.retain(|word| !word.is_empty());
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHOWN: &str = "LoadState=loaded\nExecStart={ path=/usr/bin/pgkeep ; argv[]=/usr/bin/pgkeep daemon \
        --config /etc/pgkeep/pgkeep.toml ; ignore_errors=no ; start_time=[n/a] ; pid=0 }\nProtectSystem=strict\n\
        ProtectHome=yes\nPrivateTmp=no\nReadWritePaths=-/var/backups/pgkeep /srv/backups \"/srv/my backups\"\nBindPaths=/srv/a:/srv/b:rbind\n\
        StateDirectory=pgkeep\nRuntimeDirectory=pgkeep\n";

    fn barrier(shown: &str, folder: &str) -> Option<Barrier> {
        let unit = Unit::parse(shown, Path::new("/etc/pgkeep/pgkeep.toml")).unwrap();
        unit.barrier(Path::new(folder))
    }

    #[test]
    fn a_folder_can_be_written_where_the_unit_names_it() {
        for open in [
            "/var/backups/pgkeep",
            "/srv/backups/x",
            "/srv/b",
            "/srv/my backups/x",
            "/var/lib/pgkeep/scratch",
            "/run/pgkeep",
        ] {
            assert_eq!(barrier(SHOWN, open), None, "{open}");
        }
        for closed in
            ["/var/backups", "/srv/backupsx", "/srv/a", "/srv/my", "/var/lib/other", "/tmp", "/mnt"]
        {
            assert_eq!(barrier(SHOWN, closed), Some(Barrier::ReadOnly), "{closed}");
        }
        let open = SHOWN.replace("=strict", "=full");
        assert_eq!(barrier(&open, "/mnt"), None);
        let private = SHOWN.replace("PrivateTmp=no", "PrivateTmp=yes");
        assert_eq!(barrier(&private, "/var/tmp/x"), None);
    }

    #[test]
    fn homes_are_hidden_unless_the_unit_says_otherwise() {
        for hidden in ["/home/backups", "/root", "/run/user/1000/x"] {
            let home = Barrier::Home("yes".to_owned());
            assert_eq!(barrier(SHOWN, hidden), Some(home), "{hidden}");
        }
        assert_eq!(barrier(SHOWN, "/homeless"), Some(Barrier::ReadOnly));
        let open =
            SHOWN.replace("ProtectHome=yes", "ProtectHome=no").replace("/srv/backups", "/home/b");
        assert_eq!(barrier(&open, "/home/b/c"), None);
        let bound = SHOWN
            .replace("/srv/a:/srv/b:rbind", "/home/bound")
            .replace("/srv/backups", "/home/named");
        for (value, open, closed) in [
            ("tmpfs", &["/home/bound"][..], &["/home/named", "/root"][..]),
            ("read-only", &["/home/bound", "/home/named/x"], &["/home/other"]),
            ("yes", &[], &["/home/named"]),
        ] {
            let unit = bound.replace("ProtectHome=yes", &format!("ProtectHome={value}"));
            assert!(open.iter().all(|folder| barrier(&unit, folder).is_none()), "{value}");
            assert!(closed.iter().all(|folder| barrier(&unit, folder).is_some()), "{value}");
        }
    }

    #[test]
    fn the_unit_of_another_configuration_says_nothing() {
        assert_eq!(Unit::parse(SHOWN, Path::new("/etc/other.toml")), None);
        let missing = SHOWN.replace("=loaded", "=not-found");
        assert_eq!(Unit::parse(&missing, Path::new("/etc/pgkeep/pgkeep.toml")), None);
        assert_eq!(Unit::parse("", Path::new("/etc/pgkeep/pgkeep.toml")), None);
    }
}
