/** What a long operation tells while it runs. `fraction` is in [0, 1]. */
export interface ProgressEvent {
  readonly step: string
  readonly detail?: string
  readonly fraction?: number
}

export type Progress = (event: ProgressEvent) => void

export const silentProgress: Progress = () => {}
