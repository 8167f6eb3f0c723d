import { resolve } from 'node:path'
import { type Logger, pino } from 'pino'
import { systemClock } from '../base/clock.ts'
import { HoldfastError } from '../base/errors.ts'
import { silentProgress } from '../base/progress.ts'
import { attachFleet } from '../fleet/fleet.ts'
import { toControlError } from '../fleet/control.ts'
import type { Gateway } from '../fleet/gateway.ts'
import type { GatewayReady, GatewayRefusal } from '../fleet/gateway-processes.ts'
import { PrometheusMetrics } from '../fleet/prometheus.ts'
import { packageRelease } from '../postgres/release.ts'
import { createHttpApp } from '../http/http.ts'
import { loadAppRoutes } from '../http/load-app.ts'
import type { HttpServer } from '../http/serve.ts'
import { serveHttp } from '../http/serve.ts'
import { exitCodes, printError } from './output.ts'
import { stepControl } from './step-control.ts'

/** One gateway process: attached to the supervisor, serving HTTP, working in the background, until it is told to stop. */
export async function runGateway(options: { dataDir?: string; region?: string; port?: string }): Promise<void> {
  const logger = pino({ name: `gateway-${options.region ?? ''}`, level: 'warn' }, pino.destination(2))
  const metrics = new PrometheusMetrics()
  const stopped = new Promise<void>((done) => {
    for (const signal of ['SIGTERM', 'SIGINT'] as const) process.once(signal, () => done())
    // The supervisor's end of the channel is gone: so is the supervisor.
    process.once('disconnect', () => done())
  })
  try {
    const fleet = await attachFleet(resolve(options.dataDir ?? '.holdfast'), options.region, {
      release: packageRelease,
      clock: systemClock,
      metrics,
      onStep: stepControl(process.env, process),
      progress: silentProgress,
      services: true,
      archives: 'own region',
      onServiceTrouble: (service, error) => logger.warn({ service, err: error }, 'a service met a failure and goes on'),
      onServiceFinding: (service, what) => logger.warn({ service }, what),
      onServiceFailure: (service, error) =>
        logger.error({ service, err: error }, 'a service failed and is begun again'),
    })
    try {
      const server = await serve(fleet, options.port, { metrics, logger })
      const ready: GatewayReady = { url: server.url }
      process.send?.(ready)
      await stopped
      await server.close()
    } finally {
      // Also one that cannot serve: its services would go on without anybody who knows of them.
      await fleet.close()
    }
  } catch (error) {
    process.exitCode = await tellFailure(error)
  } finally {
    if (process.connected) process.disconnect()
  }
}

async function serve(
  fleet: Gateway,
  port: string | undefined,
  { metrics, logger }: { readonly metrics: PrometheusMetrics; readonly logger: Logger },
): Promise<HttpServer> {
  const { config } = fleet.parts
  const appRoutes = config.app === null ? [] : await loadAppRoutes(config.app)
  const app = createHttpApp({ fleet, appRoutes, registry: metrics.registry, metrics, logger })
  return serveHttp({ app, host: config.listen.host, port: Number(port ?? config.listen.port) })
}

/** Whoever started this process tells the failure, once; without anybody, this process does. */
async function tellFailure(error: unknown): Promise<number> {
  if (!process.connected) return printError(error, false)
  const refusal: GatewayRefusal = { error: toControlError(error) }
  await new Promise((sent) => process.send?.(refusal, sent))
  return exitCodes[error instanceof HoldfastError ? error.category : 'internal']
}
