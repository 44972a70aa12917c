//! A peer that sends more than anybody wants: the memory of the real binary stays small.

use std::{fs, time::Duration};

use crate::harness::{
    chaos::{Chaos, Fault},
    pgkeep::Pgkeep,
    process::run_measured,
    s3::{ACCESS_KEY, BUCKET, S3Server, SECRET_KEY},
};

/// The most memory that any answer may take, in KiB.
const PEAK_KIB: u64 = 64 << 10;
const ID: &str = "20261121T021500Z-k3f9q2x7";

struct Case {
    name: &'static str,
    args: &'static [&'static str],
    method: &'static str,
    target: &'static str,
    fault: Fault,
    /// What it says.
    says: &'static str,
}

const fn flood(status: u16, begin: &'static str, piece: &'static str, megabytes: u64) -> Fault {
    Fault::Flood { status, begin, piece, bytes: megabytes << 20 }
}

const PAGE: &str = "<?xml version=\"1.0\"?><ListBucketResult><IsTruncated>false</IsTruncated>";
const ENTRY: &str = "<Contents><Key>main/7/app/all/x</Key><Size>1</Size></Contents>";

fn cases() -> Vec<Case> {
    let case = |name, args, (method, target), fault, says| Case {
        name,
        args,
        method,
        target,
        fault,
        says,
    };
    let list = &["list"][..];
    let show = &["show", ID][..];
    let doctor = &["doctor"][..];
    let any = ("GET", "");
    let page = ("GET", "list-type=2");
    vec![
        case("error", list, any, flood(500, "<Error><Code>", "x", 600), "longer than"),
        case("refusal", list, any, flood(403, "<Error>", "<a/>", 600), "longer than"),
        case("page", list, page, flood(200, PAGE, ENTRY, 350), "longer than"),
        case("tiny entries", list, page, flood(200, PAGE, "<Contents/>", 350), "longer than"),
        case(
            "a long key",
            list,
            page,
            flood(200, "<ListBucketResult><Contents><Key>", "k", 350),
            "longer than",
        ),
        case(
            "marker",
            list,
            ("GET", "pgkeep-repository"),
            flood(200, "{", " ", 350),
            "longer than",
        ),
        case("manifest", show, ("GET", "manifest.json"), flood(200, "{", " ", 350), "longer than"),
        case(
            "strings",
            show,
            ("GET", "manifest.json"),
            flood(200, MANIFEST, "\"\",", 350),
            "longer than",
        ),
        case(
            "an object's answer",
            doctor,
            ("PUT", ""),
            flood(200, "<a>", "<b/>", 350),
            "longer than",
        ),
        case(
            "many strings",
            show,
            ("GET", "manifest.json"),
            flood(200, MANIFEST, "\"a\",", 3),
            "more than",
        ),
        case(
            "all that a manifest may have",
            show,
            ("GET", "manifest.json"),
            flood(200, MANIFEST, WORD, 15),
            "is damaged",
        ),
        case("versions", doctor, ("GET", "versioning"), flood(200, "<a>", "<b/>", 350), ""),
    ]
}

/// Its command goes on and on.
const MANIFEST: &str = "{\"format_version\":1,\"tool\":{\"command\":[";

/// So long that both the bytes and the values come near to what is read of a manifest.
const WORD: &str = "\"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\",";

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_without_end_fills_no_memory() {
    let server = S3Server::start().await;
    let chaos = Chaos::start(server.address(), 7).await;
    let keys = (ACCESS_KEY, SECRET_KEY);
    let lines = "request_timeout = \"20s\"\ngive_up_after = \"1s\"";
    let home = Pgkeep::new().s3_with("cloud", &chaos.url(), BUCKET, keys, lines);
    let folder = server.object_path(&format!("main/7/app/all/{ID}"));
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("app.dump.zst"), "x").unwrap();
    fs::write(folder.join("manifest.json"), "{}").unwrap();
    let marker = "{\"format_version\":1,\"repository_id\":\"a0\"}";
    fs::write(server.object_path("pgkeep-repository.json"), marker).unwrap();
    for case in cases() {
        chaos.on(case.method, case.target, case.fault.clone());
        let mut command = home.command(case.args);
        let (output, peak) =
            tokio::task::spawn_blocking(move || run_measured(&mut command, Duration::from_mins(2)))
                .await
                .unwrap();
        chaos.calm().await;
        eprintln!("{}: {} MiB, exit code {}", case.name, peak >> 10, output.code);
        let said = format!("{}{}", output.text(), output.stderr);
        assert!(said.contains(case.says), "{}: {said}", case.name);
        assert!(peak > 1_024, "{}: nothing was measured", case.name);
        assert!(peak <= PEAK_KIB, "{}: {peak} KiB\n{said}", case.name);
    }
}
