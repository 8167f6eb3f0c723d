import type { Clock } from '../base/clock.ts'
import { HoldfastError } from '../base/errors.ts'
import type { Progress } from '../base/progress.ts'
import type { ShardName } from '../directory/topology.ts'
import type { PromotionParts, RestOfPromotion } from './promotion.ts'
import { finishPromotion } from './promotion.ts'

/**
 * Has a promotion that broke off behind its point of no return go on by itself (V6). Its shard is closed and can only be
 * opened by what is left to do, so nobody should have to come for it.
 */
export interface PromotionsParts extends PromotionParts {
  readonly clock: Clock
  readonly progress: Progress
  /** Aborted when the fleet stops: the next start goes on. */
  readonly closing: AbortSignal
}

const retryAfterMs = 1_000
/** Others of the fleet wait while an attempt runs, which can take as long as a server takes to answer. */
const retryAfterMsMax = 30_000

export class Promotions {
  readonly #parts: PromotionsParts
  readonly #running = new Map<ShardName, Promise<void>>()

  constructor(parts: PromotionsParts) {
    this.#parts = parts
  }

  /**
   * Finishes it: in the caller's turn, and what comes back is left for when that is over. Where a step fails, rejects with that,
   * and goes on in the background.
   */
  async finish(name: ShardName, progress: Progress): Promise<RestOfPromotion> {
    const rest = await this.#told(name, () => finishPromotion(this.#parts, name, progress))
    return () => this.#told(name, rest)
  }

  async #told<T>(name: ShardName, step: () => Promise<T>): Promise<T> {
    try {
      return await step()
    } catch (cause) {
      this.begin(name)
      throw new HoldfastError('node_unavailable', `the promotion of ${name} is not finished: ${reasonOf(cause)}`, {
        hint: 'it goes on by itself; the shard takes traffic when it is open',
        detail: { shard: name },
        cause,
      })
    }
  }

  /** Goes on in the background until it is finished, or the fleet stops. */
  begin(name: ShardName): void {
    if (this.#running.has(name)) return
    this.#running.set(
      name,
      this.#run(name).finally(() => this.#running.delete(name)),
    )
  }

  /** Resolves when none is under way in the background any more, e.g. because the fleet stops. */
  async ended(): Promise<void> {
    await Promise.all(this.#running.values())
  }

  async #run(name: ShardName): Promise<void> {
    const { clock, progress, closing } = this.#parts
    for (let afterMs = retryAfterMs; !closing.aborted; afterMs = Math.min(2 * afterMs, retryAfterMsMax)) {
      await clock.sleep(afterMs, closing).catch(() => undefined)
      try {
        await this.#attempt(name)
        return
      } catch (error) {
        if (closing.aborted) return
        progress({ step: 'alarm', detail: `${name}: its promotion is not finished: ${reasonOf(error)}` })
      }
    }
  }

  async #attempt(name: ShardName): Promise<void> {
    const { topology, closing, progress } = this.#parts
    const rest = await this.#parts.exclusively(async () => {
      // Finished meanwhile by who came with a failover or a restart, or overtaken by a cutover.
      if (closing.aborted || topology.shard(name).promotion === undefined) return undefined
      return finishPromotion(this.#parts, name, progress)
    })
    await rest?.()
  }
}

function reasonOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}
