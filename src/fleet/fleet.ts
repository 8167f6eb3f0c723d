import type { Clock } from '../base/clock.ts'
import { systemClock } from '../base/clock.ts'
import { HoldfastError } from '../base/errors.ts'
import type { Metrics } from '../base/metrics.ts'
import { silentMetrics } from '../base/metrics.ts'
import type { Progress } from '../base/progress.ts'
import { silentProgress } from '../base/progress.ts'
import type { OnStep } from '../base/step.ts'
import { noStep } from '../base/step.ts'
import type { Release } from '../postgres/release.ts'
import { nameRelease, packageRelease, releaseChecksum } from '../postgres/release.ts'
import { regionOf } from './region.ts'
import type { RegionName } from '../directory/topology.ts'
import type { InDoubtBranch } from '../transaction/in-doubt.ts'
import type { ConfigReference, FleetConfig } from './config.ts'
import { readConfig } from './config.ts'
import { ControlClient } from './control.ts'
import type { Call } from './control.ts'
import { serveControl } from './control.ts'
import type { Fleet, OpenFleetOptions } from './fleet-api.ts'
import { Gateway } from './gateway.ts'
import { composeGateway } from './gateway-parts.ts'
import { fleetHome } from './home.ts'
import { loadOrMakeKeys, readTokenKeys, retirementOf } from './keys.ts'
import { callTo } from './operations/operations.ts'
import type { GatewayAddress } from './registry.ts'
import {
  configOf,
  controlSocketOf,
  findSupervisor,
  requireSameRelease,
  requireSupervisor,
  writeRegistry,
} from './registry.ts'
import type { OnServiceFailure } from './services.ts'
import { Supervisor } from './supervisor.ts'
import { TokenRing } from './token-ring.ts'

/**
 * How a fleet is opened: the composition root.
 *
 * The simple way, a client library that connects to whatever address it is given, leaves to every user which server may
 * be written, what a lost reply means and when a follower may be asked. Here one call gives a handle that knows all of it.
 *
 * A process either attaches to the supervisor that holds the data directory, or becomes it. Either way it is a gateway
 * of one region. Nothing here decides anything: it reads configuration, makes the parts, and puts them together.
 */

/** How a process takes part, beyond what users choose. Commands, gateways and tests use it. */
export interface FleetRuntime {
  readonly clock: Clock
  readonly metrics: Metrics
  readonly onStep: OnStep
  readonly progress: Progress
  /** Whether this process closes clocks, settles branches and dispatches events; a command that is over soon does not. */
  readonly services: boolean
  /** Whose archives it keeps: those of all shards, where this process is the whole fleet, or of its own region. */
  readonly archives: 'all' | 'own region'
  readonly onServiceFailure: OnServiceFailure
  readonly onServiceTrouble: (service: string, error: unknown) => void
  readonly onServiceFinding: (service: string, what: string) => void
  /** Of this code. Another one for a test of upgrades. */
  readonly release: () => Promise<Release>
}

export const quietRuntime: FleetRuntime = {
  clock: systemClock,
  metrics: silentMetrics,
  onStep: noStep,
  progress: silentProgress,
  services: true,
  archives: 'own region',
  onServiceFailure: () => {},
  onServiceTrouble: () => {},
  onServiceFinding: () => {},
  release: packageRelease,
}

/** See `OpenFleetOptions`. Throws `config_invalid`, and what starting the servers can throw; then nothing is left running. */
export async function openFleet(options: OpenFleetOptions, runtime: FleetRuntime = quietRuntime): Promise<Fleet> {
  const { reference, config } = await resolveConfig(options)
  const running = await findSupervisor(config.dataDir)
  if (running !== undefined) return attachFleet(config.dataDir, options.region, runtime)
  const { wan = false, onProgress = runtime.progress } = options
  const embedded = await startFleet(reference, config, wan, { ...runtime, progress: onProgress })
  try {
    const gateway = await openGateway(config, embedded.call, regionOf(config, options.region), {
      ...runtime,
      archives: 'all',
    })
    gateway.onClose(() => embedded.stop())
    return gateway
  } catch (error) {
    await embedded.stop()
    throw error
  }
}

/** Attaches to the supervisor of a data directory. Throws `fleet_not_running`, `release_differs`. */
export async function attachFleet(
  dataDir: string,
  region: string | undefined,
  runtime: FleetRuntime = quietRuntime,
): Promise<Gateway> {
  const registry = await requireSupervisor(dataDir)
  requireSameRelease(registry, await runtime.release())
  const config = await configOf(registry)
  const client = await ControlClient.connect(registry.controlSocket)
  try {
    const gateway = await openGateway(config, client.call, regionOf(config, region), runtime)
    gateway.onClose(async () => client.close())
    return gateway
  } catch (error) {
    client.close()
    throw error
  }
}

export interface EmbeddedFleet {
  readonly supervisor: Supervisor
  readonly call: Call
  /** Tells others where the gateways are. */
  announce(gateways: readonly GatewayAddress[]): Promise<void>
  stop(): Promise<void>
}

/** Becomes the supervisor of a configuration's data directory, and serves those who attach. */
export async function startFleet(
  reference: ConfigReference,
  config: FleetConfig,
  wan: boolean | number,
  runtime: FleetRuntime,
): Promise<EmbeddedFleet> {
  const { progress, onStep } = runtime
  const release = await runtime.release()
  const supervisor = await Supervisor.start({ config, wan, progress, onStep, release })
  const call = callTo(supervisor)
  try {
    const controlSocket = controlSocketOf(supervisor.home)
    const stopServing = await serveControl(controlSocket, call)
    let announced: Promise<void> = Promise.resolve()
    // One after the other, so that the last one stands.
    const announce = (gateways: readonly GatewayAddress[]) => {
      const write = () =>
        writeRegistry(supervisor.home, {
          pid: process.pid,
          controlSocket,
          release: { name: nameRelease(release), checksum: releaseChecksum(release) },
          config: reference,
          gateways,
        })
      announced = announced.then(write, write)
      return announced
    }
    await announce([])
    const stop = async () => {
      await stopServing()
      await announced.catch(() => undefined)
      await supervisor.close()
    }
    return { supervisor, call, announce, stop }
  } catch (error) {
    await supervisor.close()
    throw error
  }
}

async function openGateway(
  config: FleetConfig,
  call: Call,
  region: RegionName,
  runtime: FleetRuntime,
): Promise<Gateway> {
  const home = fleetHome(config.dataDir)
  const keys = await loadOrMakeKeys(home.keysDir)
  const { clock, metrics, onStep, onServiceTrouble, onServiceFinding } = runtime
  const retirement = retirementOf(config)
  const ring = await TokenRing.open(() => readTokenKeys(home.keysDir, retirement, clock.wallMs()), clock)
  const onStuck = (branch: InDoubtBranch, why: string) => onServiceFinding(`settling ${branch.gid}`, why)
  const parts = await composeGateway({
    config,
    home,
    keys,
    region,
    call,
    clock,
    metrics,
    onStep,
    onStuck,
    onServiceTrouble,
    onServiceFinding,
  })
  return new Gateway(parts, ring, runtime)
}

/** The configuration that options name; a data directory remembers the one it runs. */
export async function resolveConfig(
  options: OpenFleetOptions,
): Promise<{ reference: ConfigReference; config: FleetConfig }> {
  if (options.config !== undefined) return readConfig(options.config)
  if (options.dataDir === undefined) {
    throw new HoldfastError('argument_invalid', 'neither a configuration nor a data directory was given', {
      hint: "write openFleet({ config: 'holdfast.yaml' })",
    })
  }
  const registry = await requireSupervisor(options.dataDir)
  return { reference: registry.config, config: await configOf(registry) }
}
