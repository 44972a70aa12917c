//! One test for each situation in which hosts come to share a machine id, or do not.

use super::*;
use crate::domain::wal::Switch;

const ID: &str = "0f1e2d3c4b5a69788796a5b4c3d2e1f0";
const OTHER: &str = "11111111111111111111111111111111";

fn host(machine_id: &str, name: &str) -> Owner {
    Owner { machine_id: machine_id.to_owned(), host: name.to_owned() }
}

fn at(second: i64) -> BackupId {
    BackupId::new(Timestamp::from_second(1_800_000_000 + second).unwrap(), 7)
}

fn timeline(number: u32) -> Timeline {
    Timeline::new(number).unwrap()
}

/// A backup of that second, timeline and position.
fn written(owner: Owner, second: i64, (of, lsn): (Option<u32>, &str)) -> Written {
    let id = at(second);
    let snapshot = Snapshot {
        at: id.time(),
        lsn_before: lsn.to_owned(),
        lsn_after: lsn.to_owned(),
        timeline: of.map(timeline),
        standby: false,
    };
    Written { id, owner, snapshot }
}

/// A server on that timeline and position that left others at these.
fn past(number: u32, lsn: &str, left: &[(u32, &str)]) -> Past {
    let switch = |(of, at): &(u32, &str)| Switch {
        timeline: timeline(*of),
        at: at.parse().unwrap(),
        reason: String::new(),
    };
    let switches: Vec<Switch> = left.iter().map(switch).collect();
    let history = (!switches.is_empty()).then_some(History { switches });
    Past { timeline: timeline(number), lsn: lsn.parse().unwrap(), history }
}

const HERE: (Option<u32>, &str) = (Some(1), "0/3000000");

#[test]
fn who_goes_on_owns_what_it_wrote() {
    let own = host(ID, "db1");
    let newest = written(own.clone(), 0, HERE);
    let on = past(1, "0/4000000", &[]);
    assert_eq!(judge(&newest, &own, &[], Some(&newest.id), Some(&on)), Whose::Own);
    // The state directory was lost, or brought back from yesterday; the server is out of reach.
    assert_eq!(judge(&newest, &own, &[], None, Some(&on)), Whose::Own);
    assert_eq!(judge(&newest, &own, &[], Some(&at(-9)), Some(&on)), Whose::Own);
    assert_eq!(judge(&newest, &own, &[], None, None), Whose::Own);
    // Manifests from before this was written down have no timeline.
    let old = written(own.clone(), 0, (None, "0/3000000"));
    assert_eq!(judge(&old, &own, &[], None, Some(&past(3, "0/4000000", &[]))), Whose::Own);
}

#[test]
fn a_host_that_was_renamed_goes_on() {
    let (was, own) = (host(ID, "db1"), host(ID, "db2"));
    let newest = written(was, 0, HERE);
    let on = past(1, "0/4000000", &[]);
    assert_eq!(judge(&newest, &own, &[], Some(&newest.id), Some(&on)), Whose::Renamed);
    // What it wrote last was removed meanwhile.
    assert_eq!(judge(&newest, &own, &[], Some(&at(5)), Some(&on)), Whose::Renamed);
    assert_eq!(judge(&newest, &own, &[], Some(&newest.id), None), Whose::Renamed);
}

#[test]
fn a_clone_with_a_name_of_its_own_is_a_stranger() {
    let (original, own) = (host(ID, "db1"), host(ID, "db2"));
    let newest = written(original, 0, HERE);
    let strange = Whose::Strange(Stranger::Host);
    let on = past(1, "0/4000000", &[]);
    assert_eq!(judge(&newest, &own, &[], None, Some(&on)), strange);
    assert_eq!(judge(&newest, &own, &[], None, None), strange);
    // Its state directory is a copy, and the original has gone on since.
    assert_eq!(judge(&newest, &own, &[], Some(&at(-9)), Some(&on)), strange);
}

#[test]
fn two_of_one_id_that_write_by_turns_stop_each_other() {
    let (first, second) = (host(ID, "db1"), host(ID, "db2"));
    // The second took over, with leave, and then the first was started again.
    let by_second = written(second.clone(), 10, HERE);
    let on = past(1, "0/4000000", &[]);
    let leave = [Adoption { machine_id: ID.to_owned(), until: Some(at(5).time()) }];
    let strange = Whose::Strange(Stranger::Host);
    assert_eq!(judge(&by_second, &first, &[], Some(&at(0)), Some(&on)), strange);
    // Had the first leave to write after all, the second's has run out.
    let by_first = written(first, 20, HERE);
    assert_eq!(judge(&by_first, &second, &leave, Some(&by_second.id), Some(&on)), strange);
}

#[test]
fn a_server_that_was_never_there_is_another_whatever_its_host_is_called() {
    let own = host(ID, "db1");
    let is_past = |newest: &Written, past: &Past| {
        let whose = judge(newest, &own, &[], Some(&newest.id), Some(past));
        matches!(whose, Whose::Strange(Stranger::Past(_)))
    };
    let newest = written(own.clone(), 0, HERE);
    // A disk or a machine that was set back, or a clone that writes less.
    assert!(is_past(&newest, &past(1, "0/2000000", &[])));
    // A clone that was promoted before the backup, a recovery to a point before it.
    assert!(is_past(&newest, &past(2, "0/9000000", &[(1, "0/2FFFFFF")])));
    assert!(is_past(&newest, &past(3, "0/9000000", &[(2, "0/8000000")])));
    // The original of a clone that was promoted and wrote here.
    let promoted = written(own.clone(), 0, (Some(2), "0/3000000"));
    assert!(is_past(&promoted, &past(1, "0/9000000", &[])));
    // Without a timeline in the manifest, or without the history, the position still tells.
    let old = written(own.clone(), 0, (None, "0/3000000"));
    assert!(is_past(&old, &past(1, "0/2000000", &[])));
    assert!(is_past(&newest, &past(2, "0/2000000", &[])));
}

#[test]
fn a_server_that_was_there_is_the_same_after_a_promotion_or_a_recovery() {
    let own = host(ID, "db1");
    let newest = written(own.clone(), 0, HERE);
    for past in [
        past(1, "0/3000000", &[]),
        past(2, "0/3000010", &[(1, "0/3000000")]),
        past(3, "0/3000010", &[(1, "0/3000000"), (2, "0/3000000")]),
        // It left for timeline 2 and nobody may read where.
        past(2, "0/4000000", &[]),
    ] {
        assert_eq!(judge(&newest, &own, &[], None, Some(&past)), Whose::Own, "{past:?}");
    }
    let garbled = written(own.clone(), 0, (Some(1), "?"));
    assert_eq!(judge(&garbled, &own, &[], None, Some(&past(1, "0/1", &[]))), Whose::Own);
}

#[test]
fn another_machine_is_a_stranger_until_it_is_adopted() {
    // A failover: the new primary, with a pgkeep of its own, on another host.
    let newest = written(host(OTHER, "db1"), 0, HERE);
    let own = host(ID, "db1");
    let on = past(2, "0/4000000", &[(1, "0/3000000")]);
    let strange = Whose::Strange(Stranger::Machine);
    assert_eq!(judge(&newest, &own, &[], None, Some(&on)), strange);
    let adopted: [Adoption; 1] = [OTHER.parse().unwrap()];
    assert_eq!(judge(&newest, &own, &adopted, None, Some(&on)), Whose::Own);
    // What the old primary had and nobody else: whoever adopts knows.
    let behind = past(1, "0/1000000", &[]);
    assert_eq!(judge(&newest, &own, &adopted, None, Some(&behind)), Whose::Own);
}

#[test]
fn leave_to_take_over_from_the_same_id_ends() {
    let newest = written(host(ID, "db1"), 0, HERE);
    let own = host(ID, "db2");
    let behind = past(1, "0/1000000", &[]);
    let named: Adoption = ID.parse().unwrap();
    let strange = judge(&newest, &own, std::slice::from_ref(&named), None, None);
    assert_eq!(strange, Whose::Strange(Stranger::Host), "an id alone means others");
    let leave = Adoption::of(&newest, at(60).time());
    assert_eq!(leave.to_string().parse(), Ok(leave.clone()));
    let leave = [leave];
    assert_eq!(judge(&newest, &own, &leave, None, Some(&behind)), Whose::Own);
    // The original lives on.
    let later = written(host(ID, "db1"), 120, HERE);
    let strange = Whose::Strange(Stranger::Host);
    assert_eq!(judge(&later, &own, &leave, None, None), strange);
    // Its clock may be ahead.
    let ahead = Adoption::of(&later, at(0).time());
    assert_eq!(judge(&later, &own, &[ahead], None, None), Whose::Own);
}

#[test]
fn entries_are_read() {
    assert_eq!(ID.parse(), Ok(Adoption { machine_id: ID.to_owned(), until: None }));
    let text = format!("{ID} until 2026-11-30T10:00:00Z");
    assert_eq!(text.parse::<Adoption>().unwrap().to_string(), text);
    for bad in ["", "db1", &ID.to_uppercase(), &format!("{ID} until noon"), &format!("{ID} ")] {
        assert_eq!(bad.parse::<Adoption>(), Err(AdoptionError), "{bad:?}");
    }
}
