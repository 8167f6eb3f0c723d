import type { Clock } from '../base/clock.ts'
import { deferred } from '../base/deferred.ts'
import { HoldfastError } from '../base/errors.ts'
import { silentProgress } from '../base/progress.ts'
import { endsWithin } from '../base/within.ts'
import type { RegionName, Topology, TopologySource } from '../directory/topology.ts'
import type { Call } from './control.ts'
import type { TopologyDocument } from './topology-store.ts'
import { viewFrom } from './topology-store.ts'

/** A supervisor that answers does so at once. One that stands still holds up nobody who has something else to tell. */
const refreshWithinMs = 1_000

/** The topology of an embedded fleet as one gateway knows it: asked of the supervisor, and told when it changes. */
export class ControlledTopology implements TopologySource {
  readonly #call: Call
  readonly #region: RegionName | undefined
  readonly #clock: Clock
  #current: Topology

  private constructor(call: Call, region: RegionName | undefined, clock: Clock, current: Topology) {
    this.#call = call
    this.#region = region
    this.#clock = clock
    this.#current = current
  }

  static async open(call: Call, region: RegionName | undefined, clock: Clock): Promise<ControlledTopology> {
    return new ControlledTopology(call, region, clock, viewFrom(await ask(call, null), region))
  }

  current(): Topology {
    return this.#current
  }

  /** Throws `fleet_not_running`. An answer that comes too late is taken all the same. */
  async refresh(): Promise<Topology> {
    const taken = ask(this.#call, null).then((document) => this.#take(document))
    if (await endsWithin(this.#clock, taken, refreshWithinMs)) return this.#current
    throw new HoldfastError('fleet_not_running', `the supervisor did not answer within ${refreshWithinMs} ms`, {
      hint: 'it is stopped, or its machine has too much to do; try again',
    })
  }

  /** Follows the changes until the signal; ends when the supervisor goes away. */
  async run(signal: AbortSignal): Promise<void> {
    const aborted = deferred<undefined>()
    const abort = () => aborted.resolve(undefined)
    signal.addEventListener('abort', abort)
    try {
      while (!signal.aborted) {
        // A question that is left behind is answered within seconds, to nobody.
        const asked = ask(this.#call, this.#current.version)
        asked.catch(() => undefined)
        const document = await Promise.race([asked, aborted.promise])
        if (document !== undefined) this.#take(document)
      }
    } finally {
      // Begun again as long as the supervisor is gone: listeners would gather.
      signal.removeEventListener('abort', abort)
    }
  }

  #take(document: TopologyDocument): void {
    if (document.version > this.#current.version) this.#current = viewFrom(document, this.#region)
  }
}

/** Without `after` at once, else when there is a newer version, or after a while. */
async function ask(call: Call, after: number | null): Promise<TopologyDocument> {
  return (await call('topology', { after }, silentProgress)) as TopologyDocument
}
