//! What a survey tells beside its plans.

use super::{Survey, Surveyor};
use crate::{
    backup::owner,
    domain::{
        backup::{BackupId, Series},
        finding::{CheckName, Finding, Severity},
        name::ServerName,
        target::Target,
    },
};

/// A backup is damaged.
const DAMAGED: CheckName = CheckName("backup-damaged");
/// Findings about single backups of one repository; more are counted.
const FINDINGS_MAX: usize = 20;
/// Series that a finding names; more are counted.
const NAMED_MAX: usize = 5;

impl Surveyor<'_> {
    pub(super) fn report_damage(&mut self, series: &Series, id: &BackupId, problem: &str) {
        if self.damaged.len() >= FINDINGS_MAX {
            self.damaged_more += 1;
            return;
        }
        let name = self.repository.name();
        let what = format!("{name}: backup {id} of {} {problem}", series.path());
        let finding = Finding::new(DAMAGED, Severity::Critical, what).hint(format!(
            "it stays, and older ones stay in its place; `pgkeep show {id}` says what is missing, and \
             whether another repository has it whole"
        ));
        let target = Target::series(series).in_repository(name).with_object(id.to_string());
        self.damaged.push(finding.about(target));
    }

    pub(super) fn finish(mut self) -> Survey {
        let mut findings = std::mem::take(&mut self.damaged);
        if self.damaged_more > 0 {
            findings.push(self.finding(
                DAMAGED,
                Severity::Critical,
                &format!("{} more backups are damaged", self.damaged_more),
                "look at the repository: does something else delete from it?".to_owned(),
            ));
        }
        for (stranger, newest, series) in &self.strangers {
            findings.push(owner::finding(
                self.repository.name(),
                &named(series),
                (stranger, newest),
                "are not pruned",
                self.order.now,
            ));
        }
        if self.future > 0 {
            let what = format!("{} backups are from the future; they stay, uncounted", self.future);
            let hint = "was a clock wrong when they were made? Remove them once you know";
            findings.push(self.finding(
                CheckName("backup-future"),
                Severity::Warning,
                &what,
                hint.to_owned(),
            ));
        }
        if !self.others.is_empty() {
            let count = |(server, count): (&ServerName, &u64)| format!("{server} ({count})");
            let servers: Vec<String> = self.others.iter().take(NAMED_MAX).map(count).collect();
            let what = format!(
                "it also has backups that this job leaves alone, of {}{}",
                servers.join(", "),
                more(self.others.len())
            );
            let hint = "name the servers in `servers` to prune what they left".to_owned();
            findings.push(self.finding(CheckName("backup-unmanaged"), Severity::Info, &what, hint));
        }
        Survey { series: self.plans, findings, steps: self.steps }
    }

    fn finding(&self, check: CheckName, severity: Severity, what: &str, hint: String) -> Finding {
        let what = format!("{}: {what}", self.repository.name());
        let target = Target::repository(self.repository.name());
        Finding::new(check, severity, what).hint(hint).about(target)
    }
}

/// How many of a list are not named.
fn more(count: usize) -> String {
    match count.saturating_sub(NAMED_MAX) {
        0 => String::new(),
        rest => format!(" and {rest} more"),
    }
}

fn named(series: &[Series]) -> String {
    let names: Vec<String> =
        series.iter().take(NAMED_MAX).map(|it| format!("{}/{}", it.server, it.subject)).collect();
    format!("{}{}", names.join(", "), more(series.len()))
}
