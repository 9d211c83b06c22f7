//! The stock no-op: a check server of tonic with envoy-types that allows everything. It has one
//! thread and Tollgate's allocator, which is faster than tonic's defaults.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use clap::Args;
use envoy_types::pb::{
    envoy::service::auth::v3::{
        CheckRequest, CheckResponse, OkHttpResponse,
        authorization_server::{Authorization, AuthorizationServer},
        check_response::HttpResponse,
    },
    google::rpc,
};
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{
    Request, Response, Status,
    transport::{Server, server::TcpIncoming},
};

use crate::address::Address;

/// The limit of Tollgate. The default of h2 is no limit, that of hyper is 200.
pub(crate) const STREAMS: u32 = 1024;

/// Serve the stock no-op.
#[derive(Debug, Args)]
pub(crate) struct Noop {
    #[arg(long)]
    listen: Address,
    /// Print the first request, to see what Envoy sends.
    #[arg(long)]
    show: bool,
}

struct AlwaysOk {
    show: Arc<AtomicBool>,
}

#[tonic::async_trait]
impl Authorization for AlwaysOk {
    async fn check(
        &self,
        request: Request<CheckRequest>,
    ) -> Result<Response<CheckResponse>, Status> {
        if self.show.load(Relaxed) && self.show.swap(false, Relaxed) {
            println!("{:#?}\n{:#?}", request.metadata(), request.get_ref());
        }
        let ok = CheckResponse {
            status: Some(rpc::Status::default()), // code 0
            http_response: Some(HttpResponse::OkResponse(OkHttpResponse::default())),
            ..CheckResponse::default()
        };
        Ok(Response::new(ok))
    }
}

impl Noop {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(self.serve())
    }

    async fn serve(self) -> anyhow::Result<()> {
        let service = AuthorizationServer::new(AlwaysOk { show: Arc::new(self.show.into()) });
        let router = Server::builder().max_concurrent_streams(STREAMS).add_service(service);
        match self.listen {
            Address::Tcp(address) => {
                let incoming = TcpIncoming::bind(address)?.with_nodelay(Some(true));
                router.serve_with_incoming(incoming).await?;
            }
            Address::Unix(path) => {
                let incoming = UnixListenerStream::new(UnixListener::bind(path)?);
                router.serve_with_incoming(incoming).await?;
            }
        }
        Ok(())
    }
}
