//! A lock, a cache line and a queue in one go: `cargo run -p client --example quickstart`, with a
//! node at 127.0.0.1:7400.

use std::time::Duration;

fn main() -> Result<(), client::Error> {
    let client = client::Client::connect(["127.0.0.1:7400"])?;

    let guard = client.lock("billing/{42}").wait(Duration::from_secs(10)).acquire().wait()?;
    let version = client.cache().put("invoice/{42}", "paid").wait()?;
    client.queue("mail/{42}").push(format!("version {version}")).wait()?;
    println!("done under fence {}", guard.fence());
    guard.release().wait()?;

    let queue = client.queue("mail/{42}");
    while let Some(mail) = queue.pop(Duration::from_secs(30), Duration::ZERO).wait()? {
        println!("mail: {}", mail.payload.escape_ascii());
        mail.ack().wait()?;
    }
    client.close();
    Ok(())
}
