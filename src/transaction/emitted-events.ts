import { HoldfastError } from '../base/errors.ts'
import { newTimeOrderedUuid } from '../base/random.ts'

/** What a transaction emits, as it was when it was emitted: its owner may go on with the payload, and nothing of it fails later. */
export class EmittedEvents {
  readonly #texts: string[] = []

  /** Throws `argument_invalid`. */
  emit(name: string, payload: unknown): void {
    const text = textOf(payload)
    if (typeof name !== 'string' || name === '' || text === undefined) {
      throw new HoldfastError('argument_invalid', 'an event has a name and a payload that survives JSON')
    }
    const [id, quoted] = [newTimeOrderedUuid(), JSON.stringify(name)]
    this.#texts.push(`{"id":"${id}","name":${quoted},"payload":${text}}`)
  }

  /** JSON text of a list of `{id, name, payload}`, in the order of emission. */
  get json(): string {
    return `[${this.#texts.join(',')}]`
  }
}

function textOf(payload: unknown): string | undefined {
  try {
    return JSON.stringify(payload)
  } catch (cause) {
    throw new HoldfastError('argument_invalid', 'the payload of an event must survive JSON', {
      hint: 'turn bigint into text, and emit plain data',
      cause,
    })
  }
}
