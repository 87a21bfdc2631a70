//! The built-in tool `http_request`, on a web that is a function.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex};

use bulkhead_core::grants::{Capability, WorkspaceAccess};
use bulkhead_core::outcome::{Content, Ending, Outcome};
use bulkhead_core::ports::egress::{EgressError, IncomingResponse};
use bulkhead_core::ports::sandbox::{GuestRequest, Sandbox};
use bytes::Bytes;
use futures::{StreamExt as _, stream};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::guests;
use crate::harness::{Answer, Bench, Remember, summary};

fn page(status: u16, fields: &[(&str, &str)], body: impl Into<Bytes>) -> Answer {
    let field = |(name, value): &(&str, &str)| ((*name).to_owned(), Bytes::copy_from_slice(value.as_bytes()));
    Ok(IncomingResponse {
        status,
        header: fields.iter().map(field).collect(),
        address: IpAddr::V4(Ipv4Addr::LOCALHOST),
        body: Box::pin(stream::iter([Ok(body.into())])),
    })
}

/// What was asked for: method, URL, header names, body.
type Seen = Arc<Mutex<Vec<String>>>;

fn web(seen: &Seen) -> Arc<Remember> {
    let seen = seen.clone();
    Remember::answering(0, move |mut request: GuestRequest| {
        let seen = seen.clone();
        async move {
            let body: Vec<Bytes> = match request.body.take() {
                Some(body) => body.map(|piece| piece.unwrap_or_default()).collect().await,
                None => Vec::new(),
            };
            let names: Vec<_> = request.header.iter().map(|(name, _)| name.as_str()).collect();
            let url = format!("{}://{}{}", request.scheme.as_str(), request.authority, request.target);
            let body = String::from_utf8_lossy(&body.concat()).into_owned();
            seen.lock().unwrap().push(format!("{} {url} {} {body}", request.method, names.join(",")));
            match request.target.as_str() {
                "/denied" => Err(EgressError::Denied),
                "/slow" => Err(EgressError::ResponseTimeout),
                "/moved" => page(303, &[("location", "next?a=b")], "see there"),
                "/next?a=b" => page(308, &[("location", "http://other.example/text")], ""),
                "/odd" => page(302, &[("location", "ftp://other.example/")], ""),
                "/bytes" => page(200, &[("content-type", "image/png; a=b")], vec![0x89, b'P', 0xff]),
                "/empty" => page(404, &[], ""),
                _ => page(200, &[("content-type", "text/plain")], "héllo"),
            }
        }
    })
}

async fn request(bench: &Bench, sink: &Arc<Remember>, arguments: &Value) -> Outcome {
    let prepared = bench.prepare(&guests::built("http_request.wasm")).await;
    let call = bench.call(&prepared, &arguments.to_string(), WorkspaceAccess::None);
    bench.sandbox.run(call, sink.clone(), CancellationToken::new()).await.unwrap()
}

fn parts(outcome: &Outcome) -> (Value, Option<&Content>) {
    match &outcome.ending {
        Ending::Succeeded { content: Some(content) } => match content.as_slice() {
            [Content::Json { json }] => (serde_json::from_str(json.text()).unwrap(), None),
            [Content::Json { json }, body] => (serde_json::from_str(json.text()).unwrap(), Some(body)),
            other => panic!("{other:?}"),
        },
        other => panic!("not a success: {other:?}"),
    }
}

#[tokio::test]
async fn an_answer_is_facts_and_a_body() {
    let (bench, seen) = (Bench::new(), Seen::default());
    let sink = web(&seen);
    let wants = bench.prepare(&guests::built("http_request.wasm")).await.manifest.capabilities;
    let anywhere = ["https://*:*", "http://*:*"].map(|pattern| Capability::Http(pattern.into()));
    assert_eq!(wants, [&anywhere[..], &[Capability::Secret("*".into())]].concat());
    let outcome =
        request(&bench, &sink, &json!({ "url": "https://a.example/text", "headers": { "Accept": "*/*" } })).await;
    let (facts, body) = parts(&outcome);
    let wanted = json!({
        "url": "https://a.example/text", "status": 200, "redirects": [], "bytes": 6, "truncated": false,
        "headers": [{ "name": "content-type", "value": "text/plain" }],
    });
    assert_eq!((facts, body), (wanted, Some(&Content::Text { text: "héllo".into() })));
    let outcome = request(&bench, &sink, &json!({ "url": "https://a.example/text", "max_bytes": 2 })).await;
    let (facts, body) = parts(&outcome);
    // Cut within a character.
    assert_eq!((&facts["truncated"], body), (&json!(true), Some(&Content::Text { text: "h".into() })));
    let outcome = request(&bench, &sink, &json!({ "url": "https://a.example/bytes" })).await;
    let (_, body) = parts(&outcome);
    assert_eq!(body, Some(&Content::Blob { media_type: "image/png".into(), data: "iVD/".into() }));
    let outcome = request(&bench, &sink, &json!({ "url": "https://a.example/empty" })).await;
    assert_eq!((&parts(&outcome).0["status"], parts(&outcome).1), (&json!(404), None));
    assert_eq!(seen.lock().unwrap()[0], "GET https://a.example/text accept ");
}

#[tokio::test]
async fn redirects_are_requests_of_their_own() {
    let (bench, seen) = (Bench::new(), Seen::default());
    let sink = web(&seen);
    let mut arguments = json!({
        "method": "post", "url": "https://a.example/moved", "body": "secret",
        "headers": { "authorization": "x", "content-type": "text/plain", "x-kept": "1" },
    });
    let outcome = request(&bench, &sink, &arguments).await;
    assert_eq!(parts(&outcome).0["status"], 303);
    arguments["follow"] = json!(5);
    seen.lock().unwrap().clear();
    let outcome = request(&bench, &sink, &arguments).await;
    let (facts, _) = parts(&outcome);
    assert_eq!(facts["url"], "http://other.example/text");
    assert_eq!(facts["redirects"], json!(["https://a.example/moved", "https://a.example/next?a=b"]));
    let wanted = [
        "POST https://a.example/moved authorization,content-type,x-kept secret",
        "GET https://a.example/next?a=b authorization,x-kept ",
        "GET http://other.example/text x-kept ",
    ];
    assert_eq!(*seen.lock().unwrap(), wanted);
}

#[tokio::test]
async fn a_failure_says_what_to_do() {
    let (bench, seen) = (Bench::new(), Seen::default());
    let sink = web(&seen);
    for (url, code, retryable) in [
        ("https://a.example/denied", "failed/tool.http_denied", false),
        ("https://a.example/slow", "failed/tool.http_timeout", true),
        ("https://a.example/odd", "failed/tool.http_redirect", false),
        ("ftp://a.example/", "failed/tool.invalid_arguments", false),
        ("https://user@a.example/", "failed/tool.invalid_arguments", false),
    ] {
        let outcome = request(&bench, &sink, &json!({ "url": url, "follow": 1 })).await;
        assert_eq!(summary(&outcome), code, "{outcome:?}");
        assert_eq!(outcome.ending.fault().unwrap().retryable, retryable, "{url}");
    }
    let outcome = request(&bench, &Remember::new(), &json!({ "url": "https://a.example/" })).await;
    let fault = outcome.ending.fault().unwrap();
    assert!(fault.message.contains("policy") && fault.message.contains("grants"), "{}", fault.message);
}
