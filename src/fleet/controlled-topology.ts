import { deferred } from '../base/deferred.ts'
import { silentProgress } from '../base/progress.ts'
import type { RegionName, Topology, TopologySource } from '../directory/topology.ts'
import type { Call } from './control.ts'
import type { TopologyDocument } from './topology-store.ts'
import { viewFrom } from './topology-store.ts'

/** The topology of an embedded fleet as one gateway knows it: asked of the supervisor, and told when it changes. */
export class ControlledTopology implements TopologySource {
  readonly #call: Call
  readonly #region: RegionName | undefined
  #current: Topology

  private constructor(call: Call, region: RegionName | undefined, current: Topology) {
    this.#call = call
    this.#region = region
    this.#current = current
  }

  static async open(call: Call, region: RegionName | undefined): Promise<ControlledTopology> {
    return new ControlledTopology(call, region, viewFrom(await ask(call, null), region))
  }

  current(): Topology {
    return this.#current
  }

  async refresh(): Promise<Topology> {
    this.#take(await ask(this.#call, null))
    return this.#current
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
