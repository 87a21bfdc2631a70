//! Whether the server answers: by a look now and then, and often while it does not.

use std::sync::Arc;
use std::time::Duration;

use super::Shared;

/// Between two looks while it answers: commands notice sooner.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Between two looks while it does not.
const TRY_EVERY: Duration = Duration::from_millis(250);

pub(super) async fn keep(shared: Arc<Shared>) {
    loop {
        let mut manager = shared.manager();
        // The driver's limits, and one of ours around them: it may connect first.
        let ping = async move { redis::cmd("PING").query_async::<String>(&mut manager).await };
        match tokio::time::timeout(shared.config.timeout * 3, ping).await {
            Ok(Ok(_)) => shared.ears.came(),
            Ok(Err(error)) => {
                shared.ears.went(&error.to_string());
                if error.is_timeout() {
                    shared.renew();
                }
            }
            Err(_) => {
                shared.ears.went("no answer in time");
                shared.renew();
            }
        }
        let pause = if shared.ears.is_up() { LOOK_EVERY } else { TRY_EVERY };
        // Sooner if a command or the connection itself found out.
        let until = tokio::time::Instant::now() + pause;
        while shared.ears.is_up() && tokio::time::Instant::now() < until {
            tokio::time::sleep(TRY_EVERY).await;
        }
        if !shared.ears.is_up() {
            tokio::time::sleep(TRY_EVERY).await;
        }
    }
}
