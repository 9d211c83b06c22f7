//! The least that a rate limit service of Envoy can do: tonic with envoy-types, and one `INCRBY`
//! and one `EXPIRE` of Redis for each descriptor, in one request to it. It has one thread and
//! Tollgate's allocator.

use std::{
    path::PathBuf,
    time::{SystemTime, UNIX_EPOCH},
};

use clap::Args;
use envoy_types::pb::envoy::service::ratelimit::v3::{
    RateLimitRequest, RateLimitResponse,
    rate_limit_response::{Code, DescriptorStatus},
    rate_limit_service_server::{RateLimitService, RateLimitServiceServer},
};
use redis::aio::MultiplexedConnection;
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status, transport::Server};

use crate::noop::STREAMS;

/// Serve the stock rate limit service.
#[derive(Debug, Args)]
pub(crate) struct RateLimits {
    /// The Unix socket of the service.
    #[arg(long)]
    listen: PathBuf,
    /// The Unix socket of Redis.
    #[arg(long)]
    redis: PathBuf,
    /// Requests a second for each descriptor.
    #[arg(long)]
    most: u64,
}

struct Counted {
    redis: MultiplexedConnection,
    most: u64,
}

#[tonic::async_trait]
impl RateLimitService for Counted {
    async fn should_rate_limit(
        &self,
        request: Request<RateLimitRequest>,
    ) -> Result<Response<RateLimitResponse>, Status> {
        let request = request.into_inner();
        let second = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let mut pipeline = redis::pipe();
        for descriptor in &request.descriptors {
            let mut key = request.domain.clone();
            for entry in &descriptor.entries {
                key.extend(["_", &entry.key, "_", &entry.value]);
            }
            let key = format!("{key}_{second}");
            pipeline.incr(&key, request.hits_addend.max(1)).expire(&key, 2).ignore();
        }
        let counts: Vec<u64> = pipeline
            .query_async(&mut self.redis.clone())
            .await
            .map_err(|error| Status::unavailable(error.to_string()))?;
        let code = |is_over| if is_over { Code::OverLimit } else { Code::Ok };
        let statuses = counts.iter().map(|count| DescriptorStatus {
            code: code(*count > self.most).into(),
            limit_remaining: u32::try_from(self.most.saturating_sub(*count)).unwrap_or(u32::MAX),
            ..DescriptorStatus::default()
        });
        Ok(Response::new(RateLimitResponse {
            overall_code: code(counts.iter().any(|count| *count > self.most)).into(),
            statuses: statuses.collect(),
            ..RateLimitResponse::default()
        }))
    }
}

impl RateLimits {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(self.serve())
    }

    async fn serve(self) -> anyhow::Result<()> {
        let client = redis::Client::open(format!("unix://{}", self.redis.display()))?;
        let redis = client.get_multiplexed_async_connection().await?;
        let service = RateLimitServiceServer::new(Counted { redis, most: self.most });
        let incoming = UnixListenerStream::new(UnixListener::bind(self.listen)?);
        let server = Server::builder().max_concurrent_streams(STREAMS);
        Ok({ server }.add_service(service).serve_with_incoming(incoming).await?)
    }
}
