//! Streams and futures by the thousand, that never end, or that are joined so
//! that none of the guest's code runs. Wanted: `failed`, `limit.handles` or
//! `limit.streams`; `timed_out`; output that is cut off.
#![cfg(target_arch = "wasm32")]

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

use async_hostile::{MANY, open, root, survived, unknown};
use bulkhead_async_tool::Outcome;
use bulkhead_async_tool::serde_json::json;
use wasip3::cli::{stderr, stdin, stdout};
use wasip3::filesystem::types::ErrorCode;
use wasip3::{wit_future, wit_stream};

async_hostile::attacks!("async_streams", run);

/// Larger than anything is kept of it.
const LARGE: u64 = 900 << 20;

async fn run(attack: &str) -> Outcome {
    match attack {
        "many" => {
            let kept: Vec<_> = (0..MANY).map(|_| wit_stream::new::<u8>()).collect();
            survived(&json!({ "kept": kept.len(), "refused": false }))
        }
        // As many as fit, unless the limit is lower than its default.
        "two_hundred" => {
            let kept: Vec<_> = (0..200).map(|_| wit_stream::new::<u8>()).collect();
            survived(&json!({ "kept": kept.len() }))
        }
        "many_futures" => {
            let new = || wit_future::new::<Result<(), ErrorCode>>(|| Ok(()));
            let kept: Vec<_> = (0..MANY).map(|_| new()).collect();
            survived(&json!({ "kept": kept.len(), "refused": false }))
        }
        // What was kept of each must go with it.
        "many_dropped" => {
            for _ in 0..20_000 {
                drop(wit_stream::new::<u8>());
            }
            survived(&json!({ "refused": true }))
        }
        "many_outputs" => {
            let mut kept = Vec::new();
            for _ in 0..MANY {
                let (writer, data) = wit_stream::new::<u8>();
                kept.push((writer, stderr::write_via_stream(data)));
            }
            survived(&json!({ "kept": kept.len(), "refused": false }))
        }
        "many_inputs" => {
            let kept: Vec<_> = (0..MANY).map(|_| stdin::read_via_stream()).collect();
            survived(&json!({ "kept": kept.len(), "refused": false }))
        }
        // Nobody reads: the writer waits.
        "unread" => {
            let (mut writer, _data) = wit_stream::new::<u8>();
            writer.write_all(vec![0; 1 << 20]).await;
            survived(&json!({ "written": true }))
        }
        // Both ends are its own, and it never ends.
        "endless" => {
            let (mut writer, mut data) = wit_stream::new::<u8>();
            let mut write = pin!(async {
                loop {
                    writer.write_all(vec![0; 4096]).await;
                }
            });
            let mut read = pin!(async {
                loop {
                    let _ = data.read(Vec::with_capacity(4096)).await;
                }
            });
            poll_fn(|context| -> Poll<Outcome> {
                let _: Poll<()> = write.as_mut().poll(context);
                let _: Poll<()> = read.as_mut().poll(context);
                Poll::Pending
            })
            .await
        }
        "flood" => {
            let (mut writer, data) = wit_stream::new::<u8>();
            let printed = stdout::write_via_stream(data);
            for _ in 0..64 {
                writer.write_all(vec![b'x'; 1 << 20]).await;
            }
            drop(writer);
            survived(&json!({ "printed": printed.await.is_ok() }))
        }
        // The host copies, and none of the guest's code runs.
        "file_to_output" => {
            let file = open(&root(), "file").await.expect("a file");
            file.set_size(LARGE).await.expect("sparse");
            let (data, _) = file.read_via_stream(0);
            survived(&json!({ "printed": stdout::write_via_stream(data).await.is_ok() }))
        }
        // It grows as fast as it is read.
        "file_to_itself" => {
            let file = open(&root(), "file").await.expect("a file");
            file.set_size(1 << 20).await.expect("small");
            let (data, _) = file.read_via_stream(0);
            let refusal = file.append_via_stream(data).await;
            survived(&json!({ "refused": refusal.is_err(), "refusal": format!("{refusal:?}") }))
        }
        _ => unknown(attack),
    }
}
