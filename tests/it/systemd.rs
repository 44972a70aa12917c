//! The unit on a machine that systemd has booted, installed as the README says: what a person meets
//! whom no test of the unit's text can tell of.

use std::{fs, path::Path};

use crate::harness::machine::Machine;

const CONFIG: &str = r#"[daemon]
timezone = "Europe/Zurich"

[server.main]
host = "/var/run/postgresql"
user = "pgkeep"

[repository.local]
kind = "local"
path = "/var/backups/pgkeep"

[job.nightly]
kind = "dump"
server = "main"
databases = ["*"]
schedule = "15 2 * * *"
repositories = ["local"]
role_passwords = false
attempts = 1
"#;

/// The shell block of that number below a heading of the README.
fn block(heading: &str, number: usize) -> String {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = fs::read_to_string(readme).unwrap();
    let (_, below) = readme.split_once(&format!("## {heading}\n")).unwrap();
    let block = below.split("```sh\n").nth(number + 1).unwrap();
    block.split_once("```").unwrap().0.to_owned()
}

/// Installs the program as the README says, but for the build, and writes a configuration.
fn install(machine: &Machine) {
    let lines = block("Quick start", 0).replace("target/release/pgkeep", "/opt/pgkeep");
    let lines = lines.replace("cargo build --release --locked", "cd /src");
    assert!(lines.contains("cd /src"), "{lines}");
    machine.sh(&lines).expect_code(0);
    machine.sh(&format!("cd /src; {}", block("Quick start", 1))).expect_code(0);
    configure(machine, CONFIG);
}

fn configure(machine: &Machine, config: &str) {
    let script = format!(
        "cat >/etc/pgkeep/pgkeep.toml <<'END'\n{config}\nEND\n\
         chgrp pgkeep /etc/pgkeep/pgkeep.toml; chmod 640 /etc/pgkeep/pgkeep.toml"
    );
    machine.sh(&script).expect_code(0);
}

/// A drop-in of the unit, in the place of the one before.
fn drop_in(machine: &Machine, lines: &str) {
    let folder = "/etc/systemd/system/pgkeep.service.d";
    let script = format!(
        "mkdir -p {folder}; printf '[Service]\\n{lines}\\n' >{folder}/test.conf; systemctl daemon-reload"
    );
    machine.sh(&script).expect_code(0);
}

/// A property of the unit.
fn property(machine: &Machine, name: &str) -> String {
    machine.sh(&format!("systemctl show pgkeep --value -p {name}")).text().trim().to_owned()
}

#[test]
fn systemd_long_the_readme_from_nothing_to_a_backup() {
    let Some(machine) = Machine::boot() else { return };
    install(&machine);
    let lines = block("Quick start", 2);
    assert!(lines.contains("pgkeep doctor") && lines.contains("pgkeep list"), "{lines}");
    let said = machine.sh(&lines).expect_code(0);
    let listed = said.text();
    assert!(listed.contains("0 critical"), "{listed}");
    assert_eq!(listed.lines().filter(|line| line.ends_with("complete")).count(), 2, "{listed}");
}

#[test]
fn systemd_long_a_broken_configuration_is_refused_and_seen_everywhere() {
    let Some(machine) = Machine::boot() else { return };
    install(&machine);
    machine.sh("systemctl enable --quiet --now pgkeep").expect_code(0);
    configure(&machine, &format!("{CONFIG}nonsense = 1\n"));
    machine.sh("systemctl reload pgkeep").expect_code(1);
    assert_eq!(property(&machine, "ActiveState"), "active");
    let status = property(&machine, "StatusText");
    assert!(status.contains("last reload refused") && status.contains("nonsense"), "{status}");
    let metric = machine.sh("curl -s http://127.0.0.1:9479/metrics").expect_code(0).text();
    assert!(metric.contains("\npgkeep_config_last_reload_successful 0\n"), "{metric}");

    machine.sh("systemctl restart pgkeep").expect_code(1);
    let state = ["ActiveState", "Result", "NRestarts"].map(|name| property(&machine, name));
    assert_eq!(state, ["failed", "exit-code", "0"], "it is not started again and again");
    let said = machine.sh("journalctl -u pgkeep -o cat --no-pager").text();
    assert!(said.contains("[job.nightly] has no option `nonsense`"), "{said}");

    // With credentials, which systemd 252 gives to ExecStart= alone.
    drop_in(&machine, "LoadCredential=password:/root/password");
    machine.sh("echo secret >/root/password").expect_code(0);
    let with = "user = \"pgkeep\"\npassword_credential = \"password\"";
    configure(&machine, &CONFIG.replace("user = \"pgkeep\"", with));
    machine.sh("systemctl restart pgkeep; systemctl reload pgkeep").expect_code(0);
    assert_eq!(property(&machine, "ActiveState"), "active");
    let metric = machine.sh("curl -s http://127.0.0.1:9479/metrics").text();
    assert!(metric.contains("\npgkeep_config_last_reload_successful 1\n"), "{metric}");
}

#[test]
fn systemd_long_what_the_unit_closes_is_told() {
    let Some(machine) = Machine::boot() else { return };
    install(&machine);
    for (name, folder, of_doctor, of_the_run) in [
        ("srv", "/srv/backups", "ReadWritePaths=/srv/backups under [Service]", "ReadWritePaths="),
        ("home", "/home/backups", "ProtectHome=yes closes it", "ProtectHome="),
    ] {
        machine.sh(&format!("install -d -o pgkeep -g pgkeep -m 700 {folder}")).expect_code(0);
        let config = CONFIG.replace("/var/backups/pgkeep", folder);
        let config = config.replace("repository.local", &format!("repository.{name}"));
        configure(&machine, &config.replace("\"local\"]", &format!("\"{name}\"]")));
        machine.sh("systemctl restart pgkeep").expect_code(0);
        let said = machine.sh("sudo -u pgkeep pgkeep doctor").text();
        assert!(said.contains("critical [unit-paths]") && said.contains(of_doctor), "{said}");
        let said = machine.sh("sudo -u pgkeep pgkeep run nightly");
        assert_eq!(said.code, 1, "{said:?}");
        let said = said.text() + &said.stderr;
        assert!(said.contains("repository-refused") && said.contains(of_the_run), "{said}");
    }
    // What doctor asks for helps.
    drop_in(&machine, "ReadWritePaths=/srv/backups");
    let config = CONFIG.replace("/var/backups/pgkeep", "/srv/backups");
    configure(
        &machine,
        &config.replace("repository.local", "repository.open").replace("\"local\"]", "\"open\"]"),
    );
    machine.sh("systemctl restart pgkeep; sudo -u pgkeep pgkeep run nightly").expect_code(0);
    let said = machine.sh("sudo -u pgkeep pgkeep doctor").expect_code(0).text();
    assert!(said.contains("ok        unit: pgkeep.service lets the daemon write"), "{said}");
}

/// As postdrop of Postfix does, the program needs rights that the unit takes away.
#[test]
fn systemd_long_a_test_of_a_notification_meets_the_limits_of_the_unit() {
    let Some(machine) = Machine::boot() else { return };
    install(&machine);
    let script = "printf '#!/bin/sh\\nexec sudo -n true\\n' >/usr/local/lib/page; chmod 755 /usr/local/lib/page; \
                  echo 'pgkeep ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/pgkeep; chmod 440 /etc/sudoers.d/pgkeep";
    machine.sh(script).expect_code(0);
    let notify = "[notify.ops]\nkind = \"command\"\ncommand = [\"/usr/local/lib/page\"]\n";
    configure(&machine, &format!("{CONFIG}\n{notify}"));
    let said = machine.sh("sudo -u pgkeep pgkeep notify ops").expect_code(0).text();
    assert_eq!(said, "notify ops: delivered from here; no daemon is up\n");
    machine.sh("systemctl start pgkeep").expect_code(0);
    let said = machine.sh("sudo -u pgkeep pgkeep notify ops").expect_code(1).stderr;
    assert!(said.contains("no new privileges"), "{said}");
}

/// By the limit of the user, which the kernel keeps in a container, too. `TasksMax=` itself is `lifecycle::limits`.
#[test]
fn systemd_long_a_unit_without_threads_and_programs_says_so() {
    let Some(machine) = Machine::boot() else { return };
    install(&machine);
    machine.sh("systemctl start pgkeep; pgkeep run nightly").expect_code(0);
    let pid = property(&machine, "MainPID");
    let threads = format!("sed -n 's/^Threads:[[:space:]]*//p' /proc/{pid}/status");
    let used: u32 = machine.sh(&threads).text().trim().parse().unwrap();
    for more in 0..3 {
        drop_in(&machine, &format!("LimitNPROC={}", used + more));
        machine.sh("systemctl restart pgkeep").expect_code(0);
        let said = machine.sh("pgkeep run nightly");
        let all = said.text() + &said.stderr;
        assert_eq!(said.code, 1, "{more}: {all}");
        assert!(all.contains("resources") && all.contains("TasksMax="), "{more}: {all}");
    }
    drop_in(&machine, "");
    machine.sh("systemctl restart pgkeep; pgkeep run nightly").expect_code(0);
    let log = machine.sh("journalctl -u pgkeep -o cat --no-pager").text();
    assert!(!log.contains("panicked"), "{log}");
    assert_eq!(property(&machine, "NRestarts"), "0");
}
