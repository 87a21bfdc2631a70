//! Messages of other hosts, on a connection of their own.
//!
//! The driver can take them beside answers on one connection (RESP3). Under the
//! coming and going of many subscriptions it then gave answers to the wrong questions.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bulkhead_core::ports::live::Heard;
use futures::StreamExt as _;
use redis::RedisError;
use redis::aio::{PubSubSink, PubSubStream};

use super::{Shared, lock};

/// Between two looks whether the connection lives, and before a new one.
const LOOK_EVERY: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(100);

pub(super) async fn listen(shared: Arc<Shared>) {
    loop {
        // Whether the server answers, others find out.
        while !shared.ears.is_up() {
            shared.ears.changed.notified().await;
        }
        let connected = tokio::time::timeout(shared.config.timeout * 2, shared.client.get_async_pubsub()).await;
        match connected {
            Ok(Ok(connection)) => {
                let (sink, messages) = connection.split();
                let why = hear(&shared, sink, messages).await;
                tracing::debug!(why, "messages of other hosts are heard no more");
                // Until the next connection something may be missed.
                shared.ears.say(Heard::LookAtAll);
            }
            Ok(Err(error)) => tracing::debug!(%error, "messages of other hosts can't be heard"),
            Err(_) => tracing::debug!("messages of other hosts can't be heard: no connection in time"),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Hears until the connection breaks; says why.
async fn hear(shared: &Shared, mut sink: PubSubSink, mut messages: PubSubStream) -> &'static str {
    let mut listened = HashSet::new();
    let mut look = tokio::time::interval(LOOK_EVERY);
    loop {
        // Answers to what is sent below come only while messages are read.
        let mut adjusting = std::pin::pin!(adjust(shared, &mut sink, &mut listened));
        let adjusted = loop {
            tokio::select! {
                message = messages.next() => match message {
                    Some(message) => told(shared, &message),
                    None => return "the connection broke",
                },
                adjusted = tokio::time::timeout(shared.config.timeout * 4, &mut adjusting) => break adjusted,
            }
        };
        if !matches!(adjusted, Ok(Ok(()))) {
            return "it does not answer";
        }
        loop {
            tokio::select! {
                message = messages.next() => match message {
                    Some(message) => told(shared, &message),
                    None => return "the connection broke",
                },
                () = shared.ears.changed.notified() => break,
                _ = look.tick() => break,
            }
        }
        if !shared.ears.is_up() {
            return "the server does not answer";
        }
    }
}

fn told(shared: &Shared, message: &redis::Msg) {
    if let Ok(text) = message.get_payload::<String>() {
        shared.ears.told(message.get_channel_name(), &text);
    }
}

/// Subscribes to what is wanted, and from what is not any more; looks if it is answered.
async fn adjust(shared: &Shared, sink: &mut PubSubSink, listened: &mut HashSet<Arc<str>>) -> Result<(), RedisError> {
    let (new, old): (Vec<_>, Vec<_>) = {
        let wanted = lock(&shared.ears.wanted);
        let new = wanted.iter().filter(|(channel, _)| !listened.contains(*channel));
        let old = listened.iter().filter(|channel| !wanted.contains_key(*channel));
        (new.map(|(channel, (_, task))| (channel.clone(), *task)).collect(), old.cloned().collect())
    };
    for channel in old {
        sink.unsubscribe(&*channel).await?;
        listened.remove(&channel);
    }
    for (channel, task) in new {
        sink.subscribe(&*channel).await?;
        listened.insert(channel);
        // What was told before this was not heard.
        shared.ears.say(Heard::Look(task));
    }
    sink.ping::<redis::Value>().await.map(drop)
}
