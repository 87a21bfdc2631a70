//! Both backends keep the promises of the port.

use std::sync::Arc;

use bulkhead_core::ports::sandbox::Sandbox;
use bulkhead_sandbox::contract::{FakeSandbox, Subject, keeps_the_promises};

use crate::guests;
use crate::harness::Bench;

#[tokio::test]
async fn workers_keep_the_promises() {
    let first = Bench::new();
    keeps_the_promises(|| async {
        Subject {
            sandbox: first.again(|_| {}).sandbox.clone() as Arc<dyn Sandbox>,
            echo: guests::echo(),
            spin: guests::spin(),
            speak: guests::emits_for_ever(),
            fetch: guests::built("fixtures/http.wasm"),
            fetching: r#"{"requests": [{"url": "https://contract.test/a?b"}]}"#,
        }
    })
    .await;
}

#[tokio::test]
async fn the_fake_keeps_the_promises() {
    keeps_the_promises(|| async {
        Subject {
            sandbox: Arc::new(FakeSandbox::default()),
            echo: FakeSandbox::component("echo"),
            spin: FakeSandbox::component("spin"),
            speak: FakeSandbox::component("speak"),
            fetch: FakeSandbox::component("fetch"),
            fetching: "{}",
        }
    })
    .await;
}
