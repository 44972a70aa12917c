//! `pgkeep notify NAME`: how each way of not arriving looks.

use std::{fs, net::TcpListener, path::Path};

use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};

use super::webhook;
use crate::{
    cli::shape::assert_documented,
    harness::{
        pgkeep::{Pgkeep, quote},
        process::{command, must},
        receiver::{Answer, Receiver},
    },
};

/// A home that asks nothing of a server.
fn home(notify: &str) -> Pgkeep {
    Pgkeep::new().toml(notify)
}

#[test]
fn a_test_arrives_or_says_why_not() {
    let receiver = Receiver::start();
    let home = home(&webhook(
        "ops",
        &receiver.url("/hunter2?a=hunter3"),
        "timeout = \"1s\"\ntoken = \"hunter4\"\n",
    ));
    let said = home.run(&["notify", "ops"]).expect_code(0);
    assert_eq!(said.text(), "notify ops: delivered from here; no daemon is up\n");
    let told = receiver.wait(1).remove(0);
    let json = home.run(&["notify", "ops", "--json"]).expect_code(0).json();
    assert_documented("notify", &json);
    assert_eq!((told.path.as_str(), told.event().as_str()), ("/hunter2?a=hunter3", "test"));
    for (answer, why) in [
        (Answer::Say("404 Not Found", "hunter2"), "answered 404"),
        (Answer::Say("401 Unauthorized", ""), "hint: look at `url` and `token`"),
        (Answer::Say("302 Found\r\nLocation: /elsewhere", ""), "hint: redirects are not followed"),
        (Answer::Say("503 Later", ""), "answered 503"),
        (Answer::Say("banana", ""), "client error"),
        (Answer::Hang, "no answer within 1 seconds"),
    ] {
        receiver.answers(&[answer]);
        let said = home.run(&["notify", "ops"]).expect_code(1);
        assert!(said.stderr.contains(why), "{why:?} is not in:\n{}", said.stderr);
        assert!(said.stderr.contains("[notification]"), "{}", said.stderr);
        assert!(!said.stderr.contains("hunter"), "{}", said.stderr);
    }
    assert_eq!(receiver.requests().len(), 8, "a redirect is not followed, nothing is tried twice");
    let said = home.run(&["notify", "opps"]).expect_code(5);
    assert!(said.stderr.contains("there is no [notify.opps]"), "{}", said.stderr);
}

#[test]
fn nobody_who_listens_is_said_without_the_address() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/hunter2", free.local_addr().unwrap());
    drop(free);
    let home = home(&webhook("ops", &url, ""));
    let said = home.run(&["notify", "ops", "--json"]).expect_code(1);
    let json = said.json();
    assert_eq!(
        (&json["delivered"], &json["failure"]["class"]),
        (&false.into(), &"notification".into())
    );
    assert!(json["failure"]["what"].as_str().unwrap().contains("onnection refused"), "{json}");
    assert!(!json.to_string().contains("hunter2"), "{json}");
}

#[test]
fn a_check_that_does_not_exist_is_no_success() {
    let receiver = Receiver::start();
    let url = quote(receiver.url("/uuid-hunter2"));
    let home = home(&format!("[notify.hc]\nkind = \"healthchecks\"\nurl = {url}\n"));
    home.run(&["notify", "hc"]).expect_code(0);
    assert_eq!(receiver.wait(1)[0].path, "/uuid-hunter2/log");
    receiver.answers(&[Answer::Say("200 OK", "OK (not found)")]);
    let said = home.run(&["notify", "hc"]).expect_code(1);
    assert!(said.stderr.contains("has no such check"), "{}", said.stderr);
    assert!(!said.stderr.contains("hunter2"), "{}", said.stderr);
}

/// A self-signed certificate for `localhost`.
fn certificate(folder: &Path) -> ServerConfig {
    let (key, certificate) = (folder.join("tls.key"), folder.join("tls.crt"));
    must(
        command("openssl")
            .args([
                "req",
                "-x509",
                "-nodes",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
            ])
            .args([
                "-days",
                "2",
                "-subj",
                "/CN=localhost",
                "-addext",
                "subjectAltName=DNS:localhost",
            ])
            .args(["-addext", "basicConstraints=critical,CA:FALSE"])
            .arg("-keyout")
            .arg(&key)
            .arg("-out")
            .arg(&certificate),
    );
    let chain = vec![CertificateDer::from_pem_file(&certificate).unwrap()];
    let key = PrivateKeyDer::from_pem_file(&key).unwrap();
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider);
    let builder = builder.with_safe_default_protocol_versions().unwrap();
    builder.with_no_client_auth().with_single_cert(chain, key).unwrap()
}

#[test]
fn only_a_certificate_that_the_host_trusts_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let receiver = Receiver::tls(certificate(folder.path()));
    let notify = webhook("ops", &receiver.url("/hunter2"), "");
    let said = home(&notify).run(&["notify", "ops"]).expect_code(1);
    assert!(said.stderr.contains("certificate"), "{}", said.stderr);
    assert!(said.stderr.contains("SSL_CERT_FILE"), "{}", said.stderr);
    assert!(!said.stderr.contains("hunter2"), "{}", said.stderr);
    assert_eq!(receiver.requests().len(), 0);
    let trusted = folder.path().join("tls.crt");
    let home = home(&notify).env("SSL_CERT_FILE", trusted.to_str().unwrap());
    home.run(&["notify", "ops"]).expect_code(0);
    assert_eq!(receiver.wait(1)[0].event(), "test");
    assert!(fs::exists(&trusted).unwrap());
}
